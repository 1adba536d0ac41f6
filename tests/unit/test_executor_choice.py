"""Rules of engine and number format, with machines made up."""

from __future__ import annotations

import pytest
import torch

from volseg.errors import DeviceError
from volseg.inference.device import cpu_computes_bf16, cpu_flags, precision_for, select_precision
from volseg.inference.executors.choice import CONVERSION_S, CONVERSION_WINDOWS, GAIN, check_precision, choose_engine, conversion_pays, least_windows


@pytest.mark.parametrize(
    ("asked", "device", "converted", "convertible", "pays", "chosen"),
    [
        ("auto", "cuda:0", False, True, True, "torch"),
        ("auto", "mps", False, True, True, "torch"),
        ("auto", "cpu", True, True, False, "openvino"),
        ("auto", "cpu", False, True, False, "torch"),
        ("auto", "cpu", False, True, True, "openvino"),
        ("auto", "cpu", False, False, True, "torch"),
        ("torch", "cpu", True, True, True, "torch"),
        ("openvino", "cpu", False, True, False, "openvino"),
        ("onnxruntime", "cuda:0", False, True, False, "onnxruntime"),
        ("tensorrt", "cuda:0", False, True, False, "tensorrt"),
    ],
)
def test_rule(asked, device, converted, convertible, pays, chosen):
    assert choose_engine(asked, device, converted=converted, convertible=convertible, pays=pays) == chosen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("window_s", [0.05, 0.3, 2.0, 60.0])
def test_conversion_pays_where_torch_alone_takes_longer(precision, window_s):
    """Both runs, counted out: windows in torch against the conversion and the windows in OpenVINO."""
    for windows in range(1, 400):
        alone = windows * window_s
        converted = CONVERSION_S + CONVERSION_WINDOWS[precision] * window_s + windows * window_s * (1 - GAIN[precision])
        if converted != pytest.approx(alone):
            assert conversion_pays(windows, window_s, precision) == (converted < alone)
        if windows < least_windows(precision):
            assert not conversion_pays(windows, 1e9, precision)
    assert conversion_pays(least_windows(precision) + 1, 1e9, precision)


@pytest.mark.parametrize(("window_s", "least"), [(0.18, 43), (4.5, 8)])
def test_examples_of_the_docstring(window_s, least):
    assert next(windows for windows in range(100) if conversion_pays(windows, window_s, "fp32")) == least


@pytest.mark.parametrize(
    ("flags", "computes"),
    [({"avx2", "fma"}, False), ({"avx512f", "avx512_vnni"}, False), ({"avx512_bf16"}, True), ({"amx_tile", "amx_bf16"}, True), ({"bf16"}, False), (set(), False)],
)
def test_bf16_by_cpu_flags(flags, computes, monkeypatch):
    assert cpu_computes_bf16(flags) == computes
    monkeypatch.setattr("volseg.inference.device.cpu_flags", lambda: flags)
    assert precision_for("auto", "cpu") == ("bf16" if computes else "fp32")
    assert precision_for("auto", "cpu", "openvino") == precision_for("auto", "cpu")
    # What is asked for is computed, emulated if need be.
    assert precision_for("bf16", "cpu") == "bf16"


def test_flags_of_this_cpu_are_words():
    assert all(flag and ":" not in flag and "\t" not in flag for flag in cpu_flags())


@pytest.mark.parametrize(
    ("precision", "kind", "engine", "chosen"),
    [
        ("auto", "cuda", "auto", "fp16"),
        ("auto", "mps", "auto", "fp16"),
        ("auto", "cuda", "onnxruntime", "fp32"),
        ("auto", "cuda", "tensorrt", "fp16"),
        ("bf16", "cuda", "auto", "bf16"),
        ("int8", "cpu", "auto", "int8"),
    ],
)
def test_precision(precision, kind, engine, chosen):
    assert precision_for(precision, kind, engine) == chosen


@pytest.mark.parametrize(("precision", "kind", "told"), [("fp16", "cpu", "GPUs"), ("int8", "cuda", "OpenVINO on the CPU"), ("int4", "cpu", "unknown precision")])
def test_refused_precision(precision, kind, told):
    with pytest.raises(DeviceError, match=told):
        precision_for(precision, kind)


def test_precision_to_train_in():
    assert select_precision("auto", torch.device("mps")) == "fp32"
    assert select_precision("fp32", torch.device("cpu")) == "fp32"
    with pytest.raises(DeviceError, match="int8 is for inference"):
        select_precision("int8", torch.device("cpu"))


@pytest.mark.parametrize(("engine", "precision"), [("onnxruntime", "bf16"), ("onnxruntime", "int8"), ("tensorrt", "bf16"), ("torch", "int8"), ("openvino", "fp16")])
def test_engines_refuse_formats_they_do_not_compute(engine, precision):
    with pytest.raises(DeviceError, match=f"--engine {engine} computes in .*, not in {precision}"):
        check_precision(engine, precision)


@pytest.mark.parametrize(("engine", "precision"), [("onnxruntime", "auto"), ("tensorrt", "fp16"), ("openvino", "int8"), ("auto", "int8")])
def test_engines_take_formats_they_compute(engine, precision):
    check_precision(engine, precision)
