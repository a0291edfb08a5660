// Links the views of the report. Data are in the page; nothing is fetched. Read from `start` at the end.
"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const KINDS = { u1: Uint8Array, u2: Uint16Array, i4: Int32Array, f4: Float32Array };
const SURE = 254; // steps of a share; 255 is none
const STRONG = Math.round(((1 + 3) / 6) * 255); // a response of one standard deviation
const SEEN = 2; // pixels a cell needs
const DOT = 3; // pixels of a dot that stands for several cells
const TELLS = 0.95; // area under the curve from which on a channel tells a group apart

// ---- what the page holds

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const array = ({ kind, data }) => new KINDS[kind](bytes(data).buffer);

async function inflate(id) {
  const stream = new Blob([bytes($(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

let data; // {runs, sets, side, faults, learning}
let run; // the run that is shown, see `open`
let counts; // images by rank of actual and of predicted class, in the order that is shown
const ready = new Map(); // runs that were opened before

const state = {
  evaluation: 0, order: "tree", colour: "f1", diagonal: true, within: "", least: 1, beyond: 0, outlines: true, layer: 0,
  rows: null, columns: null, node: null, cell: null, channel: null, // the selection: classes actual and predicted, and what was clicked
  from: 0, to: 0, by: "actual", right: false, image: null,
};

function open(number) {
  if (!ready.has(number)) ready.set(number, opened(data.runs[number]));
  run = ready.get(number);
  state.evaluation = run.evaluations.length - 1;
  state.order = "tree";
  state.layer = Math.max(0, run.layers.length - 1);
  Object.assign(state, { from: 0, to: run.classes, rows: null, columns: null, node: null, cell: null, channel: null, image: null });
}

function opened(plain) {
  const tree = { names: plain.tree.names, height: plain.tree.height };
  for (const name of ["parents", "depths", "starts", "stops", "leaves"]) tree[name] = array(plain.tree[name]);
  const orders = Object.fromEntries(Object.entries(plain.orders).map(([name, order]) => [name, array(order)]));
  const classes = tree.leaves.length;
  const label = Array.from(tree.leaves, (node) => tree.names[node]);
  const paths = Array.from(tree.leaves, (leaf) => { // nodes from depth 1 down to the class
    const path = [];
    for (let node = leaf; node > 0; node = tree.parents[node]) path.unshift(node);
    return path;
  });
  const cuts = plain.cuts.map((cut) => ({ name: cut.name, groups: array(cut.groups), nodes: array(cut.nodes) }));
  const evaluations = plain.evaluations.map((one) => ({
    ...one, labels: array(one.labels), predicted: array(one.predicted), place: array(one.place), confidence: array(one.confidence),
    counts: one.counts.map(array), paths: one.paths && one.paths.map(array), steps: tree.height,
  }));
  const layers = plain.layers.map((layer) => ({ ...layer, values: array(layer.values), shown: layer.values.shape[0] }));
  return { name: plain.name, notes: plain.notes, tree, classes, label, paths, cuts, orders, evaluations, layers };
}

const evaluation = () => run.evaluations[state.evaluation];
const order = () => run.orders[state.order];
const percent = (share) => (share === null || Number.isNaN(share) ? "–" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
const images = (number) => `${number.toLocaleString("en")} image${number === 1 ? "" : "s"}`;

function recount() {
  const { labels, predicted, place } = evaluation(), ranks = new Int32Array(run.classes);
  order().forEach((leaf, rank) => { ranks[leaf] = rank; });
  counts = new Int32Array(run.classes ** 2);
  for (let i = 0; i < labels.length; i++) if (place[i] >= state.beyond) counts[ranks[labels[i]] * run.classes + ranks[predicted[i]]]++;
}

/** Images of a cell as the filters have it, 0 for one that is hidden; ranks of the order that is shown. */
function shown(row, column, groups) {
  const number = counts[row * run.classes + column];
  if (number < state.least || (state.diagonal && row === column)) return 0;
  return groups && groups[order()[row]] === groups[order()[column]] ? 0 : number;
}

const hidden = () => (state.within === "" ? null : run.cuts[state.within].groups);

function nodeShare(node, what = state.colour) {
  const [hits, actual, predicted] = evaluation().counts.map((column) => column[node]);
  const whole = { recall: actual, precision: predicted, f1: (actual + predicted) / 2 }[what];
  return whole ? hits / whole : NaN;
}

// ---- colours

const PALETTES = {
  light: {
    counts: ["#c6ddf0", "#93c1df", "#4a97c9", "#1d64a5", "#0a2f66"], share: ["#b5460f", "#e8a765", "#efeade", "#8fb8cf", "#27648f"],
    ink: "#20242a", soft: "#5c646e", line: "#b9b4a8", ground: "#fbfaf7", empty: "#f4f2ec", mark: "#c8501a", none: "#d8d5cc", grid: "#e6e3da", blue: "#0072B2",
  },
  dark: {
    counts: ["#1f3d56", "#2a6591", "#3f95bf", "#86cbd2", "#f3f6cf"], share: ["#e0773a", "#9c5a35", "#383b40", "#3c6f8e", "#7cc0e6"],
    ink: "#e7e5df", soft: "#a0a6ad", line: "#59616b", ground: "#14171b", empty: "#20252b", mark: "#f0a05a", none: "#3a3f46", grid: "#2f353c", blue: "#4d9fd6",
  },
};
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const look = () => PALETTES[isDark() ? "dark" : "light"];
const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

function ramp(colours, at) {
  const place = Math.min(Math.max(at, 0), 1) * (colours.length - 1), low = Math.min(Math.floor(place), colours.length - 2);
  const [one, other] = [rgb(colours[low]), rgb(colours[low + 1])];
  return one.map((value, i) => Math.round(value + (other[i] - value) * (place - low)));
}

const css = ([red, green, blue], alpha = 1) => `rgb(${red} ${green} ${blue} / ${alpha})`;
const bright = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 140;

function scale(id, low, colours, high) {
  const bar = document.createElement("i");
  bar.style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
  $(id).replaceChildren(low, bar, high);
}

// ---- the three pictures side by side

const size = { tree: 0, matrix: 0, responses: 0, height: 0 };
let boxes = []; // of the tree: {node, x, y, width, height}
let channelOrder = [];
let areas = []; // area under the curve of each channel for the classes that are selected, or null

const isWall = () => matchMedia("(min-width: 3000px)").matches;

function layout() {
  const wide = matchMedia("(min-width: 2000px)").matches;
  const whole = Math.floor(document.querySelector(".stage").clientWidth * (wide ? (isWall() ? 0.74 : 0.68) : 1)) - (wide ? 36 : 0);
  const columns = run.layers.length ? 3 : 2;
  $("responses-view").hidden = columns === 2;
  const room = Math.max(480, Math.min(innerHeight * 0.86, 1700));
  size.height = Math.floor(Math.min(room, (whole - 20) * (columns === 3 ? 0.5 : 0.64)));
  size.matrix = size.height;
  const rest = whole - size.matrix - 10 * (columns - 1);
  size.tree = Math.floor(columns === 3 ? Math.min(rest * 0.5, 620) : Math.min(rest, 760));
  size.responses = columns === 3 ? Math.floor(Math.min(rest - size.tree, 820)) : 0;
  $("responses-view").style.width = `${size.responses}px`;
}

function canvas(id, width, height) {
  const element = $(id), dots = devicePixelRatio || 1, context = element.getContext("2d");
  element.width = Math.round(width * dots);
  element.height = Math.round(height * dots);
  Object.assign(element.style, { width: `${width}px`, height: `${height}px` });
  context.setTransform(dots, 0, 0, dots, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const span = () => state.to - state.from;
const y = (rank) => ((rank - state.from) / span()) * size.height;
const x = (rank) => ((rank - state.from) / span()) * size.matrix;

/** Stretches [first, last) of ranks in view whose classes share a value. */
function stretches(value) {
  const found = [];
  for (let rank = state.from; rank < state.to; rank++) {
    const now = value(order()[rank]), last = found[found.length - 1];
    if (last && last.value === now) last.end = rank + 1;
    else found.push({ value: now, start: rank, end: rank + 1 });
  }
  return found;
}

function drawTree() {
  const context = canvas("tree", size.tree, size.height), { paths, tree } = run, colours = look();
  const levels = Array.from({ length: tree.height }, (_, level) => stretches((leaf) => paths[leaf][level] ?? -1));
  const narrow = levels.map((level) => level.length === 1 && tree.height > 1); // one node as high as the view: where we are
  const slim = 18, rest = narrow.filter((each) => !each).length || 1;
  const width = (size.tree - slim * (tree.height - rest)) / rest, left = [0];
  narrow.forEach((each, level) => left.push(left[level] + (each && rest ? slim : width)));
  boxes = [];
  levels.forEach((level, number) => level.forEach(({ value: node, start, end }) => {
    if (node < 0) return;
    const leaf = tree.stops[node] - tree.starts[node] === 1 && tree.depths[node] === number + 1 && tree.leaves.includes(node);
    const right = leaf ? size.tree : left[number + 1];
    boxes.push({ node, x: left[number], y: y(start), width: right - left[number], height: y(end) - y(start) });
  }));
  context.textBaseline = "middle";
  for (const box of boxes) drawNode(context, box, colours);
  scale("tree-scale", `${{ recall: "recall", precision: "precision", f1: "F1" }[state.colour]} 0`, colours.share, "1");
}

function drawNode(context, box, colours) {
  const share = nodeShare(box.node), fill = Number.isNaN(share) ? rgb(colours.none) : ramp(colours.share, share), node = box.node;
  const gap = box.height > 3 ? 0.5 : 0;
  context.globalAlpha = touches(node) ? 1 : 0.28;
  context.fillStyle = css(fill);
  context.fillRect(box.x + 0.5, box.y + gap, box.width - 1, Math.max(box.height - 2 * gap, 0.4));
  if (Number.isNaN(share) && box.height > 6) hatch(context, box, colours);
  context.fillStyle = bright(fill) ? "#1b1e22" : "#f6f5f1";
  const name = run.tree.names[node];
  if (box.height >= 9 && box.width >= 34) {
    context.font = `${Math.min(isWall() ? 21 : 13, Math.max(8.5, box.height * 0.82))}px system-ui, sans-serif`;
    context.fillText(fitted(context, name, box.width - 9), box.x + 5, box.y + box.height / 2 + 0.5);
  } else if (box.width >= 11 && box.height >= 40) {
    context.save();
    context.translate(box.x + box.width / 2, box.y + box.height / 2);
    context.rotate(-Math.PI / 2);
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(fitted(context, name, box.height - 8), 0, 0.5);
    context.restore();
  }
  context.globalAlpha = 1;
  if (node === state.node) {
    context.strokeStyle = colours.mark;
    context.lineWidth = 2;
    context.strokeRect(box.x + 1, box.y + 1, box.width - 2, Math.max(box.height - 2, 1));
  }
}

function hatch(context, box, colours) {
  context.save();
  context.beginPath();
  context.rect(box.x, box.y, box.width, box.height);
  context.clip();
  context.strokeStyle = colours.soft;
  context.lineWidth = 0.6;
  for (let at = box.x - box.height; at < box.x + box.width; at += 6) {
    context.beginPath();
    context.moveTo(at, box.y + box.height);
    context.lineTo(at + box.height, box.y);
    context.stroke();
  }
  context.restore();
}

const widths = new Map();
function fitted(context, text, width) {
  const key = `${context.font}|${text}|${Math.floor(width)}`;
  if (!widths.has(key)) {
    let cut = text;
    while (cut && context.measureText(cut === text ? text : `${cut}…`).width > width) cut = cut.slice(0, -1);
    widths.set(key, cut === text ? text : cut ? `${cut}…` : "");
  }
  return widths.get(key);
}

/** Whether a node has a selected class below it. */
function touches(node) {
  if (!state.rows && !state.columns) return true;
  const leaves = run.orders.tree;
  for (let rank = run.tree.starts[node]; rank < run.tree.stops[node]; rank++) {
    if ((state.rows && state.rows[leaves[rank]]) || (state.cell && state.columns && state.columns[leaves[rank]])) return true;
  }
  return false;
}

/** Dots in a row: a cell each, or several where cells would be smaller than can be seen. */
const dotsInRow = () => (size.matrix / span() >= SEEN ? span() : Math.floor(size.matrix / DOT));

function drawMatrix() {
  const context = canvas("matrix", size.matrix, size.height), colours = look(), number = span();
  const side = dotsInRow(), groups = hidden();
  const most = new Int32Array(side * side), lit = new Uint8Array(side * side);
  let highest = 1, total = 0;
  for (let row = state.from; row < state.to; row++) {
    const actual = order()[row], line = Math.floor(((row - state.from) * side) / number) * side;
    for (let column = state.from; column < state.to; column++) {
      if (!counts[row * run.classes + column]) continue;
      const value = shown(row, column, groups);
      if (!value) continue;
      const at = line + Math.floor(((column - state.from) * side) / number);
      most[at] += value;
      if ((!state.rows || state.rows[actual]) && (!state.columns || state.columns[order()[column]])) lit[at] = 1;
      highest = Math.max(highest, most[at]);
      total += value;
    }
  }
  const picture = new ImageData(side, side), dots = picture.data, steps = Math.log(1 + highest);
  const table = Array.from({ length: 256 }, (_, i) => ramp(colours.counts, i / 255));
  for (let at = 0; at < most.length; at++) {
    if (!most[at]) continue;
    const place = highest === 1 ? 128 : Math.round(255 * (Math.log(1 + most[at]) - Math.LN2) / (steps - Math.LN2));
    const colour = table[place];
    dots.set([...colour, lit[at] ? 255 : 55], 4 * at);
  }
  context.fillStyle = colours.empty;
  context.fillRect(0, 0, size.matrix, size.height);
  stretch(context, drawnOn(picture), size.matrix, size.height);
  if (state.outlines) drawOutlines(context, colours);
  drawSelection(context, colours);
  const dot = side < number ? `, dots of about ${Math.ceil(number / side)} × ${Math.ceil(number / side)} classes` : "";
  scale("matrix-scale", "actual ↓ predicted →  1", colours.counts, `${highest.toLocaleString("en")} (log)${dot}`);
  $("matrix").dataset.images = total;
}

function drawnOn(picture) {
  const scratch = make("canvas", { width: picture.width, height: picture.height });
  scratch.getContext("2d").putImageData(picture, 0, 0);
  return scratch;
}

/** A picture with so many columns at most, neighbours averaged; rows stay as they are. */
function narrowed(picture, width) {
  const whole = drawnOn(picture);
  if (picture.width <= width) return whole;
  const scratch = make("canvas", { width, height: picture.height });
  scratch.getContext("2d").drawImage(whole, 0, 0, width, picture.height);
  return scratch;
}

function stretch(context, drawn, width, height) {
  context.imageSmoothingEnabled = false;
  context.drawImage(drawn, 0, 0, width, height);
}

function drawOutlines(context, colours) {
  context.strokeStyle = colours.soft;
  run.cuts.forEach((cut, level) => {
    const found = stretches((leaf) => cut.groups[leaf]);
    if (found.length > 260) return;
    context.globalAlpha = level ? 0.45 : 0.9;
    context.lineWidth = level ? 0.7 : 1.1;
    for (const { start, end } of found) if (end - start > 1) context.strokeRect(x(start), y(start), x(end) - x(start), y(end) - y(start));
  });
  context.globalAlpha = 1;
}

function drawSelection(context, colours) {
  if (!state.rows && !state.columns) return;
  const rows = stretches((leaf) => (!state.rows || state.rows[leaf] ? 1 : 0)).filter((each) => each.value);
  const columns = stretches((leaf) => (!state.columns || state.columns[leaf] ? 1 : 0)).filter((each) => each.value);
  if (rows.length * columns.length > 60) return;
  context.strokeStyle = colours.mark;
  context.lineWidth = 1.4;
  for (const row of rows) for (const column of columns) {
    const [width, height] = [x(column.end) - x(column.start), y(row.end) - y(row.start)], grow = state.cell ? Math.max(0, 7 - width) / 2 : 0;
    context.strokeRect(x(column.start) - grow + 0.7, y(row.start) - grow + 0.7, width + 2 * grow - 1.4, height + 2 * grow - 1.4);
  }
}

// ---- responses

/** Area under the curve of each channel for telling some classes from the others; null if these are none or all. */
function relevance(layer, members) {
  const inside = members.reduce((sum, one) => sum + one, 0), outside = run.classes - inside;
  if (!inside || !outside) return null;
  return Array.from({ length: layer.shown }, (_, channel) => {
    const [ours, theirs] = [new Int32Array(256), new Int32Array(256)];
    for (let leaf = 0; leaf < run.classes; leaf++) (members[leaf] ? ours : theirs)[layer.values[channel * run.classes + leaf]]++;
    let below = 0, area = 0;
    for (let value = 0; value < 256; value++) {
      area += ours[value] * (below + theirs[value] / 2);
      below += theirs[value];
    }
    return area / (inside * outside);
  });
}

/** Channels by the group of the coarsest cut that each tells apart best; as they are without cuts. */
function byGroups(layer) {
  if (layer.byGroups) return layer.byGroups;
  const cut = run.cuts[0], found = Array.from({ length: layer.shown }, (_, channel) => ({ channel, group: 0, area: 0 }));
  if (cut) for (let group = 0; group < cut.nodes.length; group++) {
    const found_ = relevance(layer, Uint8Array.from(cut.groups, (each) => (each === group ? 1 : 0)));
    if (found_) found_.forEach((area, channel) => { if (area > found[channel].area) Object.assign(found[channel], { group, area }); });
  }
  layer.byGroups = found.sort((a, b) => a.group - b.group || b.area - a.area || a.channel - b.channel).map(({ channel }) => channel);
  return layer.byGroups;
}

function sortChannels() {
  const layer = run.layers[state.layer];
  if (!layer || state.channel !== null) return; // a channel that was clicked stays where it is
  areas = state.rows ? relevance(layer, state.rows) : null;
  channelOrder = areas ? areas.map((_, channel) => channel).sort((a, b) => areas[b] - areas[a] || a - b) : byGroups(layer);
}

function drawResponses() {
  const layer = run.layers[state.layer];
  if (!layer) return;
  const context = canvas("responses", size.responses, size.height), colours = look(), rows = span(), { values, shown: channels } = layer;
  const picture = new ImageData(channels, rows), table = Array.from({ length: 256 }, (_, i) => ramp(colours.share, i / 255));
  for (let row = 0; row < rows; row++) {
    const leaf = order()[state.from + row], lit = !state.rows || state.rows[leaf] || (state.cell && state.columns[leaf]) ? 255 : 75;
    for (let at = 0; at < channels; at++) picture.data.set([...table[values[channelOrder[at] * run.classes + leaf]], lit], 4 * (row * channels + at));
  }
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, size.responses, size.height);
  stretch(context, narrowed(picture, Math.round(size.responses * (devicePixelRatio || 1))), size.responses, size.height);
  context.strokeStyle = colours.mark;
  context.lineWidth = 1.4;
  if (state.channel !== null) {
    const at = (channelOrder.indexOf(state.channel) / channels) * size.responses, width = Math.max(size.responses / channels, 3);
    context.strokeRect(at - 0.7, 0.7, width + 1.4, size.height - 1.4);
  }
  scale("responses-scale", "−3", colours.share, "+3 sd");
  const kept = channels < layer.channels ? ` ${channels} of ${layer.channels} channels are shown, those that differ most between classes.` : "";
  $("channels").textContent = areas
    ? `${areas.filter((area) => area > TELLS).length} of ${channels} channels tell these classes from the others (AUC > ${TELLS}); sorted by it.${kept}`
    : `${channels} channels, sorted by the group of ${run.cuts[0] ? run.cuts[0].name : "the tree"} that they tell apart best.${kept}`;
}

// ---- what is selected

const mask = (test) => Uint8Array.from({ length: run.classes }, (_, leaf) => (test(leaf) ? 1 : 0));

function selectNode(node) {
  const [start, stop] = [run.tree.starts[node], run.tree.stops[node]], ranks = new Int32Array(run.classes);
  run.orders.tree.forEach((leaf, rank) => { ranks[leaf] = rank; });
  Object.assign(state, { node, cell: null, channel: null, columns: null, image: null });
  state.rows = mask((leaf) => ranks[leaf] >= start && ranks[leaf] < stop);
  update();
}

function selectCell(actual, predicted) {
  Object.assign(state, { node: null, channel: null, image: null, cell: [actual, predicted] });
  state.rows = mask((leaf) => leaf === actual);
  state.columns = mask((leaf) => leaf === predicted);
  if (actual === predicted) $("right").checked = state.right = true;
  update();
}

function selectChannel(channel) {
  const { values } = run.layers[state.layer];
  Object.assign(state, { node: null, cell: null, columns: null, image: null, channel });
  state.rows = mask((leaf) => values[channel * run.classes + leaf] >= STRONG);
  areas = null;
  update();
}

function letGo() {
  Object.assign(state, { rows: null, columns: null, node: null, cell: null, channel: null, image: null });
  update();
}

function lookInto(node) {
  const [start, stop] = node ? [run.tree.starts[node], run.tree.stops[node]] : [0, run.classes];
  if (stop - start < 2) return;
  Object.assign(state, { from: start, to: stop, order: "tree" });
  $("order").value = "tree";
  recount();
  update();
}

function told() {
  if (state.cell) return `${run.label[state.cell[0]]} → ${run.label[state.cell[1]]}`;
  if (state.node !== null) return run.tree.names[state.node] || "all classes";
  if (state.channel !== null) return `Classes that answer strongly in channel ${state.channel} of ${run.layers[state.layer].name}`;
  return "All classes";
}

// ---- samples

function matching() {
  const { labels, predicted, place } = evaluation(), found = [];
  for (let i = 0; i < labels.length; i++) {
    if (state.rows && !state.rows[labels[i]]) continue;
    if (state.columns && !state.columns[predicted[i]]) continue;
    if (place[i] < state.beyond || (!state.right && labels[i] === predicted[i])) continue;
    found.push(i);
  }
  return found;
}

const GROUPS = 8, TILES = 14; // shown at first, and more on each click

function drawSamples() {
  const one = evaluation(), found = matching(), classOf = state.by === "actual" ? one.labels : one.predicted, groups = new Map();
  for (const i of found) groups.get(classOf[i])?.push(i) ?? groups.set(classOf[i], [i]);
  const listed = [...groups].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]);
  const what = state.right ? images(found.length) : `${found.length.toLocaleString("en")} error${found.length === 1 ? "" : "s"}`;
  $("selection").textContent = `${told()}: ${what}`;
  $("pictures").textContent = data.pictures;
  const space = $("samples");
  space.replaceChildren();
  const more = (from) => {
    for (const [leaf, members] of listed.slice(from, from + GROUPS)) space.append(drawGroup(leaf, members));
    const left = listed.length - from - GROUPS;
    if (left > 0) space.append(once(`${left} more classes`, () => more(from + GROUPS)));
  };
  more(0);
}

function once(text, act) {
  const button = make("button", { type: "button", className: "more", textContent: text });
  button.onclick = () => { button.remove(); act(); };
  return button;
}

function make(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}

function drawGroup(leaf, members) {
  const one = evaluation(), tiles = make("div", { className: "tiles" });
  members.sort((a, b) => (thumb(a) < 0) - (thumb(b) < 0) || one.confidence[b] - one.confidence[a]);
  const more = (from) => {
    for (const i of members.slice(from, from + TILES)) tiles.append(drawTile(i));
    const left = members.length - from - TILES;
    if (left > 0) tiles.append(once(`${left} more`, () => more(from + TILES)));
  };
  more(0);
  const side = state.by === "actual" ? "" : " as predicted";
  return make("div", { className: "group" }, make("h4", {}, run.label[leaf], make("span", { textContent: `${side}  ${members.length}` })), tiles);
}

function drawTile(i) {
  const one = evaluation(), other = state.by === "actual" ? one.predicted[i] : one.labels[i], isRight = one.labels[i] === one.predicted[i];
  const text = isRight ? "right" : `${state.by === "actual" ? "→ " : "is "}${run.label[other]}`;
  const tile = make("button", { type: "button", className: `tile${isRight ? " right" : ""}` }, picture(thumb(i), isWall() ? 108 : 68), make("small", { textContent: text }));
  tile.dataset.image = i;
  tile.setAttribute("aria-pressed", state.image === i);
  tile.title = `${run.label[one.labels[i]]} → ${run.label[one.predicted[i]]}, ${percent(one.confidence[i] / SURE)} sure`;
  tile.onclick = () => showImage(i);
  return tile;
}

function thumb(i) {
  const set = data.sets[evaluation().set];
  if (!set) return -1;
  set.numbers ??= array(set.pictures);
  return set.numbers[i];
}

const sheets = new Map();
function sheet(number) {
  if (!sheets.has(number)) {
    const held = document.querySelectorAll("script.sheet")[number];
    sheets.set(number, `url("${URL.createObjectURL(new Blob([bytes(held.textContent)], { type: "image/webp" }))}")`);
  }
  return sheets.get(number);
}

function picture(number, side) {
  const box = make("span", { className: `picture${number < 0 ? " none" : data.side < 64 ? " small" : ""}` });
  Object.assign(box.style, { width: `${side}px`, height: `${side}px` });
  if (number >= 0) {
    const at = number % 256;
    box.style.backgroundImage = sheet(Math.floor(number / 256));
    box.style.backgroundSize = `${16 * side}px auto`;
    box.style.backgroundPosition = `${-(at % 16) * side}px ${-Math.floor(at / 16) * side}px`;
  }
  return box;
}

function showImage(i) {
  state.image = i;
  for (const tile of document.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", Number(tile.dataset.image) === i);
  drawDetail();
}

function drawDetail() {
  const space = $("detail"), one = evaluation(), i = state.image;
  space.replaceChildren();
  if (i === null) return;
  const [actual, predicted] = [one.labels[i], one.predicted[i]], name = data.sets[one.set]?.ids[i];
  space.append(picture(thumb(i), 160));
  if (name !== undefined) space.append(make("p", { className: "note", textContent: name }));
  space.append(make("h4", { textContent: actual === predicted ? "Labelled and predicted" : "Labelled" }), path(actual, 0, predicted));
  if (actual !== predicted) space.append(make("h4", { textContent: "Predicted" }), path(predicted, 1, actual));
  const sure = `${percent(one.confidence[i] / SURE)} sure of ${run.label[predicted]}`;
  const place = one.place[i] === 255 ? "; the label is not among the first five guesses" : one.place[i] ? `; the label is guess ${one.place[i] + 1}` : "";
  space.append(make("p", { className: "note", textContent: `${sure}${place}.` }));
  if (!one.paths) space.append(make("p", { className: "note", textContent: "Probabilities along the paths are kept for the last evaluation." }));
}

/** The nodes from below the root to a class, with their probabilities; those that the other path lacks are marked. */
function path(leaf, side, other) {
  const one = evaluation(), list = make("div");
  run.paths[leaf].forEach((node, step) => {
    const value = one.paths ? one.paths[side][state.image * one.steps + step] / SURE : null;
    const bar = make("i");
    bar.style.width = `${value === null ? 0 : 70 * value}px`;
    const row = make("div", { className: `step${run.paths[other].includes(node) ? "" : " apart"}` },
      make("b", { textContent: run.tree.names[node], title: run.tree.names[node] }), bar, make("em", { textContent: value === null ? "" : percent(value) }));
    list.append(row);
  });
  return list;
}

// ---- numbers of an evaluation

function drawNumbers() {
  const one = evaluation(), head = make("tr", {}, ...["groups", "right", "errors inside", "÷ chance"].map((text) => make("th", { textContent: text })));
  const rows = one.locality.map((row) => make("tr", {}, ...[row.cut, percent(row.accuracy), percent(row.inside),
    row.ratio === null ? "–" : row.ratio.toFixed(1)].map((text) => make("td", { textContent: text }))));
  const right = one.counts[0], leaves = Array.from(run.tree.leaves).reduce((sum, node) => sum + right[node], 0);
  rows.push(make("tr", {}, ...["leaf", percent(leaves / one.labels.length), "", ""].map((text) => make("td", { textContent: text }))));
  $("locality").replaceChildren(make("table", {}, head, ...rows));
  const most = Math.max(1, ...one.profile), errors = one.profile.reduce((sum, number) => sum + number, 0);
  const severity = one.profile.reduce((sum, number, height) => sum + number * height, 0) / errors;
  $("profile").replaceChildren(make("p", { className: "note", textContent: errors
    ? `Height of the lowest common ancestor of label and prediction, over ${errors.toLocaleString("en")} errors; mean ${severity.toFixed(2)}.` : "No errors." }));
  one.profile.forEach((number, height) => {
    if (!height) return;
    const bar = make("i");
    bar.style.width = `${(100 * number) / most}%`;
    $("profile").append(make("div", { className: "bar" }, make("span", { textContent: `height ${height}` }), bar, make("span", { textContent: percent(errors ? number / errors : null) })));
  });
}

// ---- drawing all

function update({ evaluationChanged = false } = {}) {
  if (evaluationChanged) {
    recount();
    drawNumbers();
  }
  sortChannels();
  drawTree();
  drawMatrix();
  drawResponses();
  drawSamples();
  drawDetail();
  $("clear").disabled = !state.rows && !state.columns;
  $("zoom").disabled = state.node === null || run.tree.stops[state.node] - run.tree.starts[state.node] < 2;
  $("whole").disabled = span() === run.classes;
}

function redraw() {
  if (!run || !run.evaluations.length) return;
  layout();
  update();
}

function showRun(number) {
  open(number);
  fillNotes($("notes"), run.notes);
  const empty = !run.evaluations.length;
  for (const part of ["tools"]) $(part).hidden = empty;
  document.querySelector(".stage").hidden = empty;
  if (!empty) {
    fill("split", [...new Set(run.evaluations.map((one) => one.split))].map((split) => [split, split]), evaluation().split);
    fill("order", [["tree", "tree"], ...(run.orders.logits ? [["logits", "logit correlation"]] : [])], "tree");
    fill("within", [["", "no groups"], ...run.cuts.map((cut, number) => [number, cut.name])], "");
    fill("layer", run.layers.map((layer, number) => [number, layer.name]), state.layer);
    state.within = "";
    $("nodes").replaceChildren(...run.tree.names.slice(1).map((name) => make("option", { value: name })));
    showTime();
    layout();
    update({ evaluationChanged: true });
  }
  showLearning(number);
  showFaults(number);
}

function fill(id, options, chosen) {
  $(id).replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
}

function fillNotes(list, notes) {
  list.replaceChildren(...notes.map((text) => make("li", { textContent: text })));
}

/** Evaluations of the split that is shown; the slider goes through them. */
const moments = () => run.evaluations.flatMap((one, number) => (one.split === evaluation().split ? [number] : []));

function showTime() {
  const listed = moments();
  $("epoch").max = listed.length - 1;
  $("epoch").value = listed.indexOf(state.evaluation);
  $("epoch").disabled = $("play").disabled = listed.length < 2;
  $("epoch-text").textContent = `epoch ${evaluation().epoch}`;
}

function goTo(number) {
  state.evaluation = number;
  state.image = null;
  showTime();
  update({ evaluationChanged: true });
}

let playing = null;
function play() {
  clearInterval(playing);
  if (playing) { playing = null; $("play").textContent = "▶"; return; }
  const listed = moments();
  let at = listed.indexOf(state.evaluation) === listed.length - 1 ? -1 : listed.indexOf(state.evaluation);
  $("play").textContent = "❚❚";
  playing = setInterval(() => {
    if (++at >= listed.length || !listed.includes(state.evaluation)) return play();
    goTo(listed[at]);
  }, 450);
}

// ---- pointer and keys

function place(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const rankAt = (at, whole) => Math.min(state.to - 1, Math.max(state.from, state.from + Math.floor((at / whole) * span())));
const nodeAt = (left, top) => boxes.findLast((box) => left >= box.x && left < box.x + box.width && top >= box.y && top < box.y + box.height)?.node ?? null;

/** Classes of the cell at a place; where a dot is many cells, those of its largest. */
function cellAt(left, top) {
  const side = dotsInRow(), [row, column] = [rankAt(top, size.height), rankAt(left, size.matrix)];
  if (side === span()) return [order()[row], order()[column]];
  const dot = (rank) => Math.floor(((rank - state.from) * side) / span()), groups = hidden();
  const alike = (rank) => Array.from({ length: span() }, (_, i) => state.from + i).filter((other) => dot(other) === dot(rank));
  let [best, most] = [[row, column], 0];
  for (const one of alike(row)) for (const other of alike(column)) {
    const value = shown(one, other, groups);
    if (value > most) [best, most] = [[one, other], value];
  }
  return best.map((rank) => order()[rank]);
}

const channelAt = (left) => channelOrder[Math.min(channelOrder.length - 1, Math.floor((left / size.responses) * channelOrder.length))];

function tip(event, text) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
  box.style.top = `${Math.min(event.clientY + 16, innerHeight - height - 8)}px`;
}

function nodeText(node) {
  const number = run.tree.stops[node] - run.tree.starts[node], [, actual, predicted] = evaluation().counts.map((column) => column[node]);
  const shares = ["recall", "precision", "f1"].map((what) => `${what === "f1" ? "F1" : what} ${percent(nodeShare(node, what))}`).join(", ");
  return `${run.tree.names[node]}${number > 1 ? `, ${number} classes` : ""}\n${shares}\n${images(actual)}, predicted ${predicted.toLocaleString("en")} times`;
}

function cellText(actual, predicted) {
  const [row, column] = [order().indexOf(actual), order().indexOf(predicted)], number = counts[row * run.classes + column];
  const all = evaluation().counts[1][run.tree.leaves[actual]], common = run.paths[actual].filter((node) => run.paths[predicted].includes(node)).pop();
  const where = actual === predicted ? "" : `\ncommon ancestor: ${common === undefined ? "the root" : run.tree.names[common]}`;
  return `${run.label[actual]} → ${run.label[predicted]}\n${images(number)}, ${percent(all ? number / all : null)} of ${run.label[actual]}${where}`;
}

function responseText(leaf, channel) {
  const { values } = run.layers[state.layer], value = (values[channel * run.classes + leaf] / 255) * 6 - 3;
  return `${run.label[leaf]}, channel ${channel}\n${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(1)} sd${areas ? `, AUC ${areas[channel].toFixed(2)} of the selected classes` : ""}`;
}

function listen() {
  const on = (id, kind, act) => $(id).addEventListener(kind, act);
  on("tree", "mousemove", (event) => { const node = nodeAt(...place(event)); tip(event, node !== null && nodeText(node)); });
  on("tree", "click", (event) => { const node = nodeAt(...place(event)); if (node !== null) node === state.node ? letGo() : selectNode(node); });
  on("tree", "dblclick", (event) => { const node = nodeAt(...place(event)); if (node !== null) { selectNode(node); lookInto(node); } });
  on("matrix", "mousemove", (event) => tip(event, cellText(...cellAt(...place(event)))));
  on("matrix", "click", (event) => selectCell(...cellAt(...place(event))));
  on("responses", "mousemove", (event) => { const [left, top] = place(event); tip(event, responseText(order()[rankAt(top, size.height)], channelAt(left))); });
  on("responses", "click", (event) => selectChannel(channelAt(place(event)[0])));
  for (const id of ["tree", "matrix", "responses"]) on(id, "mouseleave", (event) => tip(event, ""));
  addEventListener("keydown", (event) => { if (event.key === "Escape") letGo(); });
  const change = (id, act) => on(id, "change", () => act($(id)));
  change("run", (box) => showRun(Number(box.value)));
  change("split", (box) => goTo(run.evaluations.findLastIndex((one) => one.split === box.value)));
  on("epoch", "input", () => goTo(moments()[Number($("epoch").value)]));
  on("play", "click", play);
  change("beyond", (box) => { state.beyond = Number(box.value); update({ evaluationChanged: true }); });
  change("order", (box) => { Object.assign(state, { order: box.value, from: 0, to: run.classes }); recount(); update(); });
  change("diagonal", (box) => { state.diagonal = box.checked; drawMatrix(); });
  change("within", (box) => { state.within = box.value; drawMatrix(); });
  on("least", "input", () => { state.least = Math.max(1, Number($("least").value) || 1); drawMatrix(); });
  change("outlines", (box) => { state.outlines = box.checked; drawMatrix(); });
  change("colour", (box) => { state.colour = box.value; drawTree(); });
  change("layer", (box) => { state.layer = Number(box.value); if (state.channel !== null) letGo(); else { sortChannels(); drawResponses(); } });
  change("find", (box) => { const node = run.tree.names.indexOf(box.value); if (node >= 0) selectNode(node); });
  on("zoom", "click", () => lookInto(state.node));
  on("whole", "click", () => lookInto(0));
  on("clear", "click", letGo);
  change("by", (box) => { state.by = box.value; drawSamples(); });
  change("right", (box) => { state.right = box.checked; drawSamples(); });
  on("theme", "click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; redraw(); drawCharts(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { redraw(); drawCharts(); });
  let waiting = null;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 120); });
}

// ---- charts, learning and faults

let charts = null; // {overview, learning: [figures of each run]}

function themed(figure) {
  const { ink, grid, soft, blue } = look(), axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickcolor: soft, automargin: true };
  const { data: traces, layout: plain, frames } = JSON.parse(JSON.stringify(figure).replaceAll(/#(222222|333333)/gi, ink).replaceAll("#dddddd", grid).replaceAll("#0072B2", blue));
  const base = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", xaxis: axis, yaxis: axis, colorway: [blue, "#E69F00", "#009E73", "#CC79A7"] };
  return { data: traces, frames, layout: { ...plain, autosize: true, template: { layout: base } }, config: { displaylogo: false, responsive: true } };
}

let plotly = null; // loaded when the first chart comes near
const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) if (isIntersecting) drawChart(target);
}, { rootMargin: "600px" });

async function drawChart(box) {
  near.unobserve(box);
  plotly ??= inflate("plotly").then((text) => { document.head.append(make("script", { textContent: text })); });
  await plotly;
  await window.Plotly.newPlot(box, themed(box.figure));
  box.dataset.drawn = "yes";
}

function addChart(space, figure) {
  const box = make("div", { figure }), title = make("h3", { textContent: figure.title }), note = make("p", { className: "note", textContent: figure.notes });
  box.style.minHeight = `${figure.layout.height}px`;
  const tall = figure.layout.height > 1000; // a row a class: on request
  space.append(make("div", { className: "chart" }, ...(tall ? [make("details", {}, make("summary", { textContent: figure.title }), box)] : [title, note, box])));
  near.observe(box);
}

function drawCharts() {
  if (!charts) return;
  for (const [id, figures] of [["overview-charts", charts.overview], ["learning-charts", charts.learning[$("run").value] || []]]) {
    $(id).replaceChildren();
    for (const figure of figures) addChart($(id), figure);
  }
}

async function loadCharts() {
  charts = JSON.parse(await inflate("charts-data"));
  drawCharts();
  document.documentElement.dataset.ready = "charts";
}

function showLearning(number) {
  const { text, findings } = data.learning[number], space = $("learning-text");
  space.replaceChildren(make("p", { className: "note", textContent: text }));
  if (findings.length) {
    const head = make("tr", {}, ...["claim", "what was measured", "value", "against", ""].map((title) => make("th", { textContent: title })));
    const rows = findings.map((row) => make("tr", {}, ...row.cells.map((cell) => make("td", { textContent: cell })), make("td", { className: row.tone })));
    space.append(make("details", {}, make("summary", { textContent: `${findings.length} numbers for and against the claims` }), make("div", { className: "scroll" }, make("table", {}, head, ...rows))));
  }
  drawCharts();
}

function showFaults(number) {
  const { text, lists } = data.faults[number];
  $("faults-text").replaceChildren(...text.map((each) => make("p", { className: "note", textContent: each })));
  $("faults-lists").replaceChildren(...lists.map(({ detector, rows, total }) => {
    const button = make("button", { type: "button", textContent: "CSV" }), count = total > rows.length ? `${rows.length} of ${total}` : `${total}`;
    button.onclick = () => save(`${detector}.csv`, rows);
    const space = make("div"), more = (from) => {
      for (const row of rows.slice(from, from + 10)) space.append(finding(row));
      if (rows.length > from + 10) space.append(once(`${rows.length - from - 10} more`, () => more(from + 10)));
    };
    more(0);
    return make("div", {}, make("div", { className: "detector" }, make("h3", { textContent: `${detector}, ${count}` }), button), space);
  }));
}

function finding(row) {
  const cell = (text) => make("span", { textContent: text }), names = [row.label, row.predicted].filter(Boolean).join(" → ");
  const score = row.score && Number.isFinite(Number(row.score)) ? Number(Number(row.score).toPrecision(3)) : row.score;
  const text = make("div", {}, make("div", { textContent: row.sentence || names })), parts = [cell(row.rank), cell(score)];
  if (row.image) {
    const split = row.split ? `${row.split}: ` : "";
    text.append(make("p", { className: "note", textContent: `${split}${[names, row.image, row.other_image].filter(Boolean).join(", ")}` }));
    parts.push(make("div", { className: "pair" }, ...row.pictures.map((number) => picture(number, 64))));
  }
  return make("div", { className: row.image ? "finding" : "finding classes" }, ...parts, text);
}

function save(name, rows) {
  const columns = ["rank", "score", "split", "image", "label", "predicted", "other_image", "sentence"];
  const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column] || ""))].map((row) => row.map(cell).join(","));
  const link = make("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: name });
  link.click();
}

async function start() {
  data = JSON.parse(await inflate("data"));
  listen();
  showRun(0);
  performance.mark("views");
  document.documentElement.dataset.ready = "views";
  window.hiercnn = { state, boxes: () => boxes, counts: () => counts, nodeShare, areas: () => areas, channels: () => channelOrder, run: () => run, size };
  await new Promise((done) => setTimeout(done));
  await loadCharts();
}

start().catch((error) => {
  document.querySelector("main").prepend(make("p", { className: "note", textContent: `This page could not be drawn: ${error}. It needs a browser of 2023 or newer.` }));
  console.error(error);
});
})();
