# SPDX-License-Identifier: Apache-2.0
"""Arguments of transformers' `TrainingArguments` that mean nothing here, each with the reason.

They are fields all the same, so that a script's arguments can be taken over as they are; one that is set to
something else than its default, and than what is done here anyway, is refused with its reason.  This table is
the only place that knows which they are: the class, the command line and the documentation read it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["REFUSED", "Refusal"]


class Refusal(NamedTuple):
    """Why an argument cannot be set.

    Attributes
    ----------
    reason : str
        A clause that stands after the argument's name.
    allowed : tuple of object
        Values beside the default that ask for what is done here anyway.
    """

    reason: str
    allowed: tuple[Any, ...] = ()


_ONE_PROCESS = "training runs in one process, with threads; see qdqbert.set_num_threads"
_NO_GPU = "training runs on the CPU"
_HUB = "nothing is uploaded while training; afterwards huggingface_hub's upload_folder sends output_dir"
_FLOAT32 = "weights, activations and gradients are float32; bf16 rounds what products multiply, in training"
_EVALUATION = "an evaluation computes what the model does, in float32 or on codes"
_NO_COMPILER = "there is no PyTorch to compile with; the kernels are compiled already"
_LOADER = "batches are made in this process, between steps"

REFUSED: dict[str, Refusal] = {
    "per_gpu_train_batch_size": Refusal("use per_device_train_batch_size, which replaced it"),
    "per_gpu_eval_batch_size": Refusal("use per_device_eval_batch_size, which replaced it"),
    "eval_accumulation_steps": Refusal("predictions are in the CPU's memory as soon as they are made"),
    "log_level_replica": Refusal(_ONE_PROCESS),
    "log_on_each_node": Refusal(_ONE_PROCESS),
    "logging_nan_inf_filter": Refusal(
        "a loss that is not finite is never filtered out of the log: it stops training, with the step, the "
        "batch and the layer"
    ),
    "save_safetensors": Refusal(
        "PyTorch's pickled format is not written; safetensors is what all readers read"
    ),
    "save_on_each_node": Refusal(_ONE_PROCESS),
    "use_mps_device": Refusal(_NO_GPU),
    "jit_mode_eval": Refusal(_NO_COMPILER),
    "use_ipex": Refusal(_NO_COMPILER),
    "fp16": Refusal(_FLOAT32),
    "fp16_opt_level": Refusal(_FLOAT32),
    "half_precision_backend": Refusal(_FLOAT32),
    "bf16_full_eval": Refusal(_EVALUATION),
    "fp16_full_eval": Refusal(_EVALUATION),
    "tf32": Refusal(_NO_GPU, (False,)),
    "local_rank": Refusal(_ONE_PROCESS),
    "ddp_backend": Refusal(_ONE_PROCESS),
    "tpu_num_cores": Refusal(_NO_GPU),
    "tpu_metrics_debug": Refusal(_NO_GPU),
    "debug": Refusal("a loss that is not finite is traced to its layer without being asked"),
    "dataloader_num_workers": Refusal(_LOADER),
    "dataloader_prefetch_factor": Refusal(_LOADER),
    "past_index": Refusal("BERT has no memory between batches"),
    "ignore_data_skip": Refusal(
        "going on at the batch where a run stopped costs nothing, and keeps its bits"
    ),
    "fsdp": Refusal(_ONE_PROCESS, ([],)),
    "fsdp_min_num_params": Refusal(_ONE_PROCESS),
    "fsdp_config": Refusal(_ONE_PROCESS, ({},)),
    "fsdp_transformer_layer_cls_to_wrap": Refusal(_ONE_PROCESS),
    "accelerator_config": Refusal("there is no accelerate below this trainer"),
    "deepspeed": Refusal(_ONE_PROCESS),
    "adafactor": Refusal("Adafactor is not built; optim takes adamw_torch and sgd"),
    "length_column_name": Refusal("the length of an item is counted from its input_ids"),
    "ddp_find_unused_parameters": Refusal(_ONE_PROCESS),
    "ddp_bucket_cap_mb": Refusal(_ONE_PROCESS),
    "ddp_broadcast_buffers": Refusal(_ONE_PROCESS),
    "dataloader_pin_memory": Refusal(_NO_GPU, (False,)),
    "dataloader_persistent_workers": Refusal(_LOADER),
    "skip_memory_metrics": Refusal("memory is not profiled"),
    "use_legacy_prediction_loop": Refusal("there is one prediction loop"),
    "push_to_hub": Refusal(_HUB),
    "hub_model_id": Refusal(_HUB),
    "hub_strategy": Refusal(_HUB),
    "hub_token": Refusal(_HUB),
    "hub_private_repo": Refusal(_HUB),
    "hub_always_push": Refusal(_HUB),
    "gradient_checkpointing_kwargs": Refusal(
        "gradient checkpointing has one form here, which has no options",
        ({}, {"use_reentrant": True}, {"use_reentrant": False}),
    ),
    "fp16_backend": Refusal(_FLOAT32),
    "push_to_hub_model_id": Refusal(_HUB),
    "push_to_hub_organization": Refusal(_HUB),
    "push_to_hub_token": Refusal(_HUB),
    "mp_parameters": Refusal(_ONE_PROCESS),
    "auto_find_batch_size": Refusal(
        "memory that runs out is an error that says so; set per_device_train_batch_size, with "
        "gradient_accumulation_steps to keep the size of a step"
    ),
    "torchdynamo": Refusal(_NO_COMPILER),
    "ray_scope": Refusal("there is no hyperparameter search"),
    "ddp_timeout": Refusal(_ONE_PROCESS),
    "torch_compile": Refusal(_NO_COMPILER),
    "torch_compile_backend": Refusal(_NO_COMPILER),
    "torch_compile_mode": Refusal(_NO_COMPILER),
    "dispatch_batches": Refusal(_ONE_PROCESS),
    "split_batches": Refusal(_ONE_PROCESS),
    "neftune_noise_alpha": Refusal("noise on the embeddings is not built"),
    "optim_target_modules": Refusal("GaLore is not built; optim takes adamw_torch and sgd"),
}
