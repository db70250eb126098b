"""The structures of `step.cpp`, field by field: what a pointer in them points to is said there."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int64, c_void_p


class MatrixShape(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
    )


class PanelShape(Structure):
    _fields_ = (("weight", c_void_p), ("left", c_int64), ("pairs", c_int64))


class LowRankShape(Structure):
    _fields_ = (("a", MatrixShape), ("b", POINTER(PanelShape)))


class GroupShape(Structure):
    _fields_ = (("matrix", MatrixShape), ("adapters", POINTER(LowRankShape)))


class LayerShape(Structure):
    _fields_ = (
        ("norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("qkv", GroupShape),
        ("o", GroupShape),
        ("gate_up", GroupShape),
        ("down", GroupShape),
    )


class ModelShape(Structure):
    _fields_ = (
        ("layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("inner", c_int64),
        ("widest_rank", c_int64),
        ("eps", c_float),
        ("layer", POINTER(LayerShape)),
    )


class SegmentShape(Structure):
    _fields_ = (
        ("first", c_int64),
        ("last", c_int64),
        ("keys", c_int64),
        ("slots", c_void_p),
        ("mask", c_void_p),
    )


class BatchShape(Structure):
    _fields_ = (
        ("rows", c_int64),
        ("segments", c_int64),
        ("segment", POINTER(SegmentShape)),
        ("write", c_void_p),
        ("adapter", c_void_p),
        ("positions", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("scale", c_void_p),
        ("x", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_stride", c_int64),
    )
