"""verl 0.9.1's look-up of a checkpoint's processor, for families that it does not know.

verl refuses their processors, swallows the error and continues without one.
"""

import sys
from functools import wraps
from pathlib import Path

from transformers import AutoConfig, AutoProcessor, ProcessorMixin
from verl.utils.tokenizer import tokenizer

from qwen3vl_rl.models.families import FAMILIES

BOUND_IN = ("verl.utils.tokenizer.tokenizer", "verl.utils.tokenizer", "verl.utils")  # before hooks are loaded
verls_hf_processor = tokenizer.hf_processor


@wraps(verls_hf_processor)
def hf_processor(name_or_path: str | Path, **options) -> ProcessorMixin | None:
    config = AutoConfig.from_pretrained(name_or_path, **options)
    family = FAMILIES.get(config.model_type)
    if family is None or family.processor_in_verl:
        return verls_hf_processor(name_or_path, **options)
    processor = AutoProcessor.from_pretrained(name_or_path, **options)
    processor.config = config  # as verl does
    return processor


for module in BOUND_IN:
    sys.modules[module].hf_processor = hf_processor
