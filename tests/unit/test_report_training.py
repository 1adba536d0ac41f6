from __future__ import annotations

import io
import re

from PIL import Image

from volseg.report.training import draw_curves, metric_names, series, write_training_report

ROWS = [
    {
        "epoch": str(epoch),
        "elapsed_s": str(60 * epoch),
        "train_loss": str(1 / epoch),
        "learning_rate": "0.001",
        "seconds": "50",
        "steps_per_second": "2",
        "data_wait_share": "0.1",
        "validation_s": "5" if epoch % 5 == 0 else "0",
        "val_mean_dice": "0.5" if epoch % 5 == 0 else "",
        "val_mean_dice_liver": "0.6" if epoch % 5 == 0 else "",
    }
    for epoch in range(1, 21)
]
RECORD = {"bundle": "<b>tiny</b>", "fold": 2, "best_metric": 0.5, "best_epoch": 5, "validation_s": 20.0, "training_cases": ["a", "b"], "validation_cases": ["c"]}


def test_curves_are_a_picture():
    image = Image.open(io.BytesIO(draw_curves(ROWS)))
    assert image.format == "PNG"
    assert image.width > 800
    assert Image.open(io.BytesIO(draw_curves([{key: value for key, value in row.items() if not key.startswith("val_")} for row in ROWS]))).format == "PNG"


def test_columns_are_read_where_they_have_values():
    assert metric_names(ROWS) == ["val_mean_dice", "val_mean_dice_liver"]
    assert series(ROWS, "val_mean_dice") == ([5.0, 10.0, 15.0, 20.0], [0.5] * 4)


def test_page_is_self_contained_and_escaped(tmp_path):
    page = write_training_report(tmp_path, ROWS, RECORD)
    text = page.read_text()
    assert page == tmp_path / "training.html"
    assert (tmp_path / "curves.png").is_file()
    assert "<b>tiny</b>" not in text
    assert "&lt;b&gt;tiny&lt;/b&gt;, fold 2" in text
    assert "<script" not in text
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert "0.5000 in epoch 5" in text
    # 2 steps a second, a tenth of the time spent waiting, 20 of 1200 s validating: the numbers of the rows.
    assert "2.00" in text
    assert "10%" in text
    assert "2% of the time" in text
