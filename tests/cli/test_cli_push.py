"""`hiercnn push`."""

import timm


def test_push_says_how_to_load(command, recipe_file, tmp_path):
    command("train", recipe_file("epochs=1"), "--run-dir", tmp_path / "run", "-q")
    code, out, err = command("push", tmp_path / "run", "--folder", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out == f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)\n'
    assert eval(out, {"timm": timm}).num_classes == 36


def test_push_refuses_in_one_line(command, tmp_path):
    code, out, err = command("push", tmp_path, "--to", "me/tiny", "--private")
    assert (code, out) == (2, "")
    assert err == f"hiercnn: no finished run in {tmp_path}; train it to its end first (--resume goes on with it)\n"
