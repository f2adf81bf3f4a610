# SPDX-License-Identifier: Apache-2.0
"""Which other model a checkpoint belongs to, by the names of its tensors.

A configuration may be missing or say ``bert`` of anything, and some models share enough names with BERT (a
question answering head, an embedding) that loading would "work" with most weights fresh.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["describe_foreign_model"]

# What a name of the model starts with in transformers.
_PREFIXES = {
    "albert": "ALBERT",
    "roberta": "RoBERTa",
    "xlm_roberta": "XLM-RoBERTa",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "deberta": "DeBERTa",
    "mobilebert": "MobileBERT",
    "squeezebert": "SqueezeBERT",
    "convbert": "ConvBERT",
    "ibert": "I-BERT",
    "roformer": "RoFormer",
    "nezha": "NEZHA",
    "mpnet": "MPNet",
    "funnel": "Funnel Transformer",
    "longformer": "Longformer",
    "ernie": "ERNIE",
    "layoutlm": "LayoutLM",
    "camembert": "CamemBERT",
    "flaubert": "FlauBERT",
    "rembert": "RemBERT",
    "fnet": "FNet",
    "esm": "ESM",
    "data2vec_text": "Data2Vec",
}
# What appears in names whatever they start with.
_PARTS = (
    (r"(^|\.)albert_layer_groups\.", "an ALBERT model"),
    (r"(^|\.)transformer\.layer\.\d+\.attention\.q_lin\.", "a DistilBERT model"),
    (r"(^|\.)transformer\.layer\.\d+\.rel_attn\.", "an XLNet model"),
    (r"(^|\.)attentions\.\d+\.q_lin\.", "an XLM model"),
    (r"^(discriminator_predictions|generator_predictions|generator_lm_head)\.", "an ELECTRA model"),
    (r"^lm_head\.(dense|layer_norm)\.", "a RoBERTa model"),
    (r"(^|\.)encoder\.rel_embeddings\.|\.attention\.self\.(query_proj|in_proj)\.", "a DeBERTa model"),
    (r"(^|\.)encoder\.layer\.\d+\.bottleneck\.", "a MobileBERT model"),
    (r"(^|\.)encoder\.layer\.\d+\.attention\.ln\.", "a Megatron-BERT model"),
    (r"(^|\.)encoder\.layer\.\d+\.attention\.attn\.[qkvo]\.", "an MPNet model"),
    (r"(^|\.)layers\.\d+\.attn\.Wqkv\.", "a model with fused attention (ModernBERT, NomicBERT, MosaicBERT)"),
    (r"(^|\.)encoder\.layers\.\d+\.mixer\.", "a model of flash-attn's BERT"),
    (r"(^|\.)h\.\d+\.attn\.c_attn\.", "a GPT-2 model"),
    (r"(^|\.)layers\.\d+\.self_attn\.[qkv]_proj\.", "a BART, LLaMA or similar model"),
    (r"(^|\.)block\.\d+\.layer\.\d+\.SelfAttention\.", "a T5 model"),
    (r"(^|\.)lora_[AB](\.|$)", "a LoRA adapter, not a whole model; merge it into its base model first"),
)
_PREFIX = re.compile("^(" + "|".join(_PREFIXES) + r")\.")
_NUMBER = re.compile(r"\.\d+(?=\.)")  # of a layer
_ANY_PART = re.compile("|".join(f"(?:{pattern})" for pattern, _ in _PARTS))


def describe_foreign_model(names: Iterable[str]) -> str | None:
    """Say what model tensors of these names belong to, or None if that is BERT or unknown.

    Parameters
    ----------
    names : iterable of str

    Returns
    -------
    str or None
        Such as ``"an ALBERT model (albert.embeddings.word_embeddings.weight)"``.
    """
    seen: set[str] = set()
    for name in names:
        kind = _NUMBER.sub(".0", name)  # what is looked for has any number, so one layer speaks for all
        if kind in seen:
            continue
        seen.add(kind)
        found = _PREFIX.match(name)
        if found:
            model = _PREFIXES[found[1]]
            article = "an" if model[0] in "AEIX" or model == "MPNet" else "a"
            return f"{article} {model} model ({name[:120]})"
        if _ANY_PART.search(name):
            model = next(model for pattern, model in _PARTS if re.search(pattern, name))
            return f"{model} ({name[:120]})"
    return None
