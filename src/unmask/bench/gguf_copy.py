"""A GGUF file in another quantisation, for a peer that is measured with both: as quick as a real one, as good as its
source."""

from __future__ import annotations

import os
from pathlib import Path

import gguf

FILE_TYPE = "general.file_type"


def requantised(source: Path, folder: Path, kind: str = "Q8_0") -> Path:
    """The path of `source` with its matrices in `kind`, in `folder`, written where it is not there yet."""
    target = folder / f"{source.stem}.{kind}.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    number = gguf.GGMLQuantizationType[kind]
    reader = gguf.GGUFReader(source)
    part = target.with_suffix(f".{os.getpid()}.part")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(part, architecture)
    for field in reader.fields.values():
        if field.name in ("general.architecture", FILE_TYPE) or field.name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    for tensor in reader.tensors:
        data = gguf.dequantize(tensor.data, tensor.tensor_type)
        if data.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quantize(data, number), raw_dtype=number)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, target)
    return target
