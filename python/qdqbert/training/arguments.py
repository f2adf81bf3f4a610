# SPDX-License-Identifier: Apache-2.0
"""What a training run is asked to do: transformers' `TrainingArguments`, names, order and defaults.

The reference is transformers 4.39.  Every field is there; what means nothing on one CPU process is refused
when it is set (`qdqbert.training.refused_arguments`), and nothing is accepted and ignored.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qdqbert.errors import UnsupportedError
from qdqbert.seeds import require_seed
from qdqbert.training.optimizer_arguments import sgd_options
from qdqbert.training.refused_arguments import REFUSED

__all__ = ["IntervalStrategy", "OptimizerNames", "SchedulerType", "TrainingArguments"]

_LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "passive")
_REPORTS = ("jsonl",)


class IntervalStrategy(enum.StrEnum):
    """When something is done in the course of training."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SchedulerType(enum.StrEnum):
    """How the learning rate goes on after the warm-up; see `qdqbert.optim.lr_scheduler`."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"


class OptimizerNames(enum.StrEnum):
    """What moves the weights."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    SGD = "sgd"


@dataclasses.dataclass
class TrainingArguments:
    """Everything that a `Trainer` is told beside model and data.

    Parameters
    ----------
    output_dir : str or path
        Folder of checkpoints and logs, of one run at a time; made when training begins.
    overwrite_output_dir : bool
        Remove the checkpoints of an earlier run that is not resumed.  Left out, such a run is refused: two
        runs in one folder would delete each other's checkpoints.
    do_train, do_eval, do_predict : bool
        For scripts that ask them, as ``qdqbert train``; `Trainer` does what its methods are called for.
        `do_eval` becomes true with an `evaluation_strategy`.
    evaluation_strategy : {"no", "steps", "epoch"}
        When to evaluate while training: never, every `eval_steps` steps, after each epoch.
    prediction_loss_only : bool
        Keep nothing but the loss when evaluating.
    per_device_train_batch_size, per_device_eval_batch_size : int
        Items of a batch, at least 1.
    gradient_accumulation_steps : int
        Batches of a step, at least 1.  The last step of an epoch takes what is left.
    eval_delay : float
        Steps or epochs, as `evaluation_strategy` counts, before the first evaluation.
    learning_rate : float
        Largest of the schedule, at least 0.
    weight_decay : float
        Of weights; biases and LayerNorm have none.  At least 0.
    adam_beta1, adam_beta2 : float
        Of AdamW, in [0, 1).
    adam_epsilon : float
        Of AdamW, positive.
    max_grad_norm : float
        Norm to which gradients are clipped; 0: no clipping.
    num_train_epochs : float
        Passes over the data, positive; may end within one.
    max_steps : int
        Steps, instead of `num_train_epochs`, if positive.
    lr_scheduler_type : str
        ``"linear"``, ``"cosine"``, ``"constant"`` ...: a name of `SchedulerType`.
    lr_scheduler_kwargs : dict
        Further arguments of the schedule, such as ``{"min_lr_rate": 0.01}``.
    warmup_ratio : float
        Share of the steps in which the rate rises from 0, in [0, 1].
    warmup_steps : int
        The same as a number of steps; goes before `warmup_ratio` if positive.
    log_level : str
        ``"debug"``, ``"info"``, ``"warning"``, ``"error"`` or ``"critical"`` for this package's logger while
        the trainer works; ``"passive"`` leaves it alone.
    logging_dir : str or path
        Folder of ``log.jsonl``; `output_dir` by default.
    logging_strategy : {"no", "steps", "epoch"}
        When loss and learning rate are logged.
    logging_first_step : bool
        Log the first step too.
    logging_steps : float
        Steps between logs; below 1, a share of all steps.
    save_strategy : {"no", "steps", "epoch"}
        When a checkpoint is written.
    save_steps : float
        Steps between checkpoints; below 1, a share of all steps.
    save_total_limit : int
        Checkpoints that are kept, the newest and the best; None: all.
    save_only_model : bool
        Write checkpoints without what a resumed run needs.
    no_cuda, use_cpu : bool
        Both values mean the same: training runs on the CPU.
    seed : int
        Of dropout, and of the order of the data unless `data_seed` is given.  At least 0.
    data_seed : int
        Of the order of the data.
    dataloader_drop_last : bool
        Leave out an epoch's last batch if it is not full.
    eval_steps : float
        Steps between evaluations; below 1, a share of all steps; `logging_steps` by default.
    run_name : str
        Title of the progress bar.
    disable_tqdm : bool
        True: no bar; False: a bar; by default only if the standard error is a terminal.
    remove_unused_columns : bool
        Leave out fields of items that the model's forward does not take.
    label_names : list of str
        Fields that are labels; by default those that the model's forward takes.
    load_best_model_at_end : bool
        Go back to the best checkpoint when training ends.
    metric_for_best_model : str
        Figure of the evaluation that says which is best; ``"loss"`` by default if one is needed.
    greater_is_better : bool
        Whether more of it is better; by default for all but the loss.
    label_smoothing_factor : float
        Share of the loss that is spread over all classes, in [0, 1); for heads with classes.
    optim : {"adamw_torch", "adamw_torch_fused", "sgd"}
        Optimizer; the first two are one.
    optim_args : str
        For sgd: ``"momentum=0.9,nesterov=true"``.
    group_by_length : bool
        Put items of nearly the same length into a batch.
    report_to : str or list of str
        ``"jsonl"`` or ``"all"`` (the default): write ``log.jsonl``; ``"none"``: do not.
    resume_from_checkpoint : str or bool
        Used by `Trainer.train` if it is not told otherwise.
    gradient_checkpointing : bool
        Keep only the input of each layer and compute the layer again in backward: less memory, the same bits.
    bf16 : bool
        Round what the products of linear layers multiply to bfloat16 in training, which needs AVX512-BF16;
        sums, weights and all else stay float32 (`bf16_products_enable` of the model).
    include_inputs_for_metrics : bool
        Give ``compute_metrics`` the inputs too.
    full_determinism : bool
        Both values mean the same: equal runs have equal bits.
    include_tokens_per_second, include_num_input_tokens_seen : bool
        Add tokens per second to the final figures; the tokens so far to every log.
    eval_strategy : {"no", "steps", "epoch"}
        The name that later releases gave `evaluation_strategy`.
    per_gpu_train_batch_size, per_gpu_eval_batch_size, eval_accumulation_steps : refused
    log_level_replica, log_on_each_node, logging_nan_inf_filter, save_safetensors, save_on_each_node : refused
    use_mps_device, jit_mode_eval, use_ipex, fp16, fp16_opt_level, half_precision_backend : refused
    bf16_full_eval, fp16_full_eval, tf32, local_rank, ddp_backend, tpu_num_cores, tpu_metrics_debug : refused
    debug, dataloader_num_workers, dataloader_prefetch_factor, past_index, ignore_data_skip : refused
    fsdp, fsdp_min_num_params, fsdp_config, fsdp_transformer_layer_cls_to_wrap, accelerator_config : refused
    deepspeed, adafactor, length_column_name, ddp_find_unused_parameters, ddp_bucket_cap_mb : refused
    ddp_broadcast_buffers, dataloader_pin_memory, dataloader_persistent_workers : refused
    skip_memory_metrics, use_legacy_prediction_loop, push_to_hub, hub_model_id, hub_strategy : refused
    hub_token, hub_private_repo, hub_always_push, gradient_checkpointing_kwargs, fp16_backend : refused
    push_to_hub_model_id, push_to_hub_organization, push_to_hub_token, mp_parameters : refused
    auto_find_batch_size, torchdynamo, ray_scope, ddp_timeout, torch_compile : refused
    torch_compile_backend, torch_compile_mode, dispatch_batches, split_batches : refused
    neftune_noise_alpha, optim_target_modules : refused
        If set to something else than the default: see `qdqbert.training.refused_arguments` for the reason of
        each.

    Raises
    ------
    UnsupportedError
        If an argument is set that means nothing here.
    ValueError, TypeError
        If a value is out of range or of another type, or arguments contradict each other; it is named.

    Examples
    --------
    >>> arguments = TrainingArguments("out", learning_rate=3e-5, num_train_epochs=1, logging_steps=10)
    >>> arguments.lr_scheduler_type == "linear"
    True
    """

    output_dir: str
    overwrite_output_dir: bool = False
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    evaluation_strategy: str = "no"
    prediction_loss_only: bool = False
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    per_gpu_train_batch_size: int | None = None
    per_gpu_eval_batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int | None = None
    eval_delay: float | None = 0
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    log_level: str | None = "passive"
    log_level_replica: str | None = "warning"
    log_on_each_node: bool = True
    logging_dir: str | None = None
    logging_strategy: str = "steps"
    logging_first_step: bool = False
    logging_steps: float = 500
    logging_nan_inf_filter: bool = True
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_safetensors: bool | None = True
    save_on_each_node: bool = False
    save_only_model: bool = False
    no_cuda: bool = False
    use_cpu: bool = False
    use_mps_device: bool = False
    seed: int = 42
    data_seed: int | None = None
    jit_mode_eval: bool = False
    use_ipex: bool = False
    bf16: bool = False
    fp16: bool = False
    fp16_opt_level: str = "O1"
    half_precision_backend: str = "auto"
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None
    local_rank: int = -1
    ddp_backend: str | None = None
    tpu_num_cores: int | None = None
    tpu_metrics_debug: bool = False
    debug: str | list[str] = ""
    dataloader_drop_last: bool = False
    eval_steps: float | None = None
    dataloader_num_workers: int = 0
    dataloader_prefetch_factor: int | None = None
    past_index: int = -1
    run_name: str | None = None
    disable_tqdm: bool | None = None
    remove_unused_columns: bool | None = True
    label_names: list[str] | None = None
    load_best_model_at_end: bool | None = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    ignore_data_skip: bool = False
    fsdp: Any = ""
    fsdp_min_num_params: int = 0
    fsdp_config: Any = None
    fsdp_transformer_layer_cls_to_wrap: str | None = None
    accelerator_config: str | None = None
    deepspeed: str | None = None
    label_smoothing_factor: float = 0.0
    optim: str = "adamw_torch"
    optim_args: str | None = None
    adafactor: bool = False
    group_by_length: bool = False
    length_column_name: str | None = "length"
    report_to: Any = None
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    skip_memory_metrics: bool = True
    use_legacy_prediction_loop: bool = False
    push_to_hub: bool = False
    resume_from_checkpoint: str | bool | None = None
    hub_model_id: str | None = None
    hub_strategy: str = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool = False
    hub_always_push: bool = False
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    include_inputs_for_metrics: bool = False
    fp16_backend: str = "auto"
    push_to_hub_model_id: str | None = None
    push_to_hub_organization: str | None = None
    push_to_hub_token: str | None = None
    mp_parameters: str = ""
    auto_find_batch_size: bool = False
    full_determinism: bool = False
    torchdynamo: str | None = None
    ray_scope: str | None = "last"
    ddp_timeout: int | None = 1800
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    dispatch_batches: bool | None = None
    split_batches: bool | None = None
    include_tokens_per_second: bool | None = False
    include_num_input_tokens_seen: bool | None = False
    neftune_noise_alpha: float | None = None
    optim_target_modules: str | list[str] | None = None
    eval_strategy: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), np.generic):
                setattr(self, field.name, value.item())
        self.output_dir = os.path.expanduser(os.fspath(self.output_dir))
        if self.logging_dir is not None:
            self.logging_dir = os.path.expanduser(os.fspath(self.logging_dir))
        self._refuse()
        self._settle_choices()
        self._require_types()
        self._require_ranges()
        self._settle_intervals()
        self._settle_best()
        self.report_to = _reports(self.report_to)

    # ---- checks --------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        for field in dataclasses.fields(self):
            refusal = REFUSED.get(field.name)
            value = getattr(self, field.name)
            if refusal is not None and value != field.default and value not in refusal.allowed:
                raise UnsupportedError(f"{field.name}={value!r}: {refusal.reason}")

    def _settle_choices(self) -> None:
        if self.eval_strategy is not None:
            self.evaluation_strategy = self.eval_strategy
        for name in ("evaluation_strategy", "logging_strategy", "save_strategy"):
            setattr(self, name, _choice(name, getattr(self, name), IntervalStrategy))
        self.lr_scheduler_type = _choice("lr_scheduler_type", self.lr_scheduler_type, SchedulerType)
        self.optim = _choice("optim", self.optim, OptimizerNames)
        if self.log_level not in _LOG_LEVELS:
            raise ValueError(f"log_level: expected one of {', '.join(_LOG_LEVELS)}, got {self.log_level!r}")
        if self.optim == OptimizerNames.SGD:
            sgd_options(self.optim_args)
        elif self.optim_args:
            raise UnsupportedError(
                f"optim_args={self.optim_args!r}: is for sgd; AdamW has adam_beta1, adam_beta2, adam_epsilon"
            )
        if self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
            raise UnsupportedError(
                "lr_scheduler_type='reduce_lr_on_plateau': schedules here are functions of the step"
            )

    def _require_types(self) -> None:
        for name in _BOOLEANS:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
        if not isinstance(self.disable_tqdm, bool | None):
            raise TypeError(f"disable_tqdm: expected a bool or None, got {type(self.disable_tqdm).__name__}")
        if not isinstance(self.greater_is_better, bool | None):
            raise TypeError(
                f"greater_is_better: expected a bool or None, got {type(self.greater_is_better).__name__}"
            )
        self.lr_scheduler_kwargs = {} if self.lr_scheduler_kwargs is None else self.lr_scheduler_kwargs
        if not isinstance(self.lr_scheduler_kwargs, dict):
            raise TypeError(
                f"lr_scheduler_kwargs: expected a dict, got {type(self.lr_scheduler_kwargs).__name__}"
            )
        names = self.label_names
        if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
            raise TypeError(f"label_names: expected a list of names, got {names!r}")
        for name in ("metric_for_best_model", "run_name", "optim_args"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{name}: expected a str or None, got {getattr(self, name)!r}")

    def _require_ranges(self) -> None:
        self.eval_delay = 0 if self.eval_delay is None else self.eval_delay
        self.max_grad_norm = 0.0 if self.max_grad_norm is None else self.max_grad_norm
        for name, low, high in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: expected a number, got {value!r}")
            if not low <= value <= high or (name in _OPEN_ENDED and value == high):
                end = ")" if name in _OPEN_ENDED or math.isinf(high) else "]"
                raise ValueError(f"{name}: expected a number in [{low:g}, {high:g}{end}, got {value!r}")
        for name in ("adam_epsilon", "num_train_epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)!r}")
        for name, least in _INTEGERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        require_seed("seed", self.seed)
        if self.data_seed is not None:
            require_seed("data_seed", self.data_seed)
        limit = self.save_total_limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"save_total_limit: expected an integer or None, got {limit!r}")

    def _settle_intervals(self) -> None:
        """Settle when to log, save and evaluate."""
        if self.evaluation_strategy != IntervalStrategy.NO:
            self.do_eval = True
        if self.evaluation_strategy == IntervalStrategy.STEPS and not self.eval_steps:
            self.eval_steps = self.logging_steps
        strategies = {
            "logging_steps": self.logging_strategy,
            "eval_steps": self.evaluation_strategy,
            "save_steps": self.save_strategy,
        }
        for name, strategy in strategies.items():
            value = getattr(self, name)
            if value is None and name == "eval_steps":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
            if value > 1:
                if value != int(value):
                    raise ValueError(f"{name}: expected an integer or a share of at most 1, got {value!r}")
                setattr(self, name, int(value))
            # A script that writes save_steps=0 wants no checkpoints; the original reads it so too.
            if value == 0 and name != "save_steps" and strategy == IntervalStrategy.STEPS:
                raise ValueError(f"{name}: expected a positive number for strategy 'steps', got 0")

    def _settle_best(self) -> None:
        """Settle what the best checkpoint is, and that there will be one."""
        if self.load_best_model_at_end:
            if self.evaluation_strategy != self.save_strategy or self.save_strategy == IntervalStrategy.NO:
                raise ValueError(
                    "load_best_model_at_end: expected checkpoints and evaluations at the same times, got "
                    f"evaluation_strategy={str(self.evaluation_strategy)!r} and "
                    f"save_strategy={str(self.save_strategy)!r}"
                )
            if self.save_strategy == IntervalStrategy.STEPS:
                self._require_multiple()
            self.metric_for_best_model = self.metric_for_best_model or "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model not in ("loss", "eval_loss")

    def _require_multiple(self) -> None:
        save, evaluate = self.save_steps, self.eval_steps
        assert evaluate is not None
        if (save < 1) != (evaluate < 1) or not save:
            raise ValueError(
                "load_best_model_at_end: expected save_steps and eval_steps both as steps or both as shares, "
                f"got {save!r} and {evaluate!r}"
            )
        # Shares are decimal numbers: 0.3 is three times 0.1.
        quotient = save / evaluate
        if quotient < 0.5 or abs(quotient - round(quotient)) > 1e-9:
            raise ValueError(
                "load_best_model_at_end: expected save_steps to be a multiple of eval_steps, got "
                f"{save!r} and {evaluate!r}"
            )

    # ---- what follows --------------------------------------------------------------------------------------

    @property
    def train_batch_size(self) -> int:
        """Items of a batch of training."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Items of a batch of evaluation."""
        return self.per_device_eval_batch_size

    @property
    def log_folder(self) -> str:
        """Folder of ``log.jsonl``."""
        return self.output_dir if self.logging_dir is None else self.logging_dir

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the steps in which the learning rate rises.

        Parameters
        ----------
        num_training_steps : int
            Of the whole run.
        """
        if self.warmup_steps > 0:
            return self.warmup_steps
        return math.ceil(num_training_steps * self.warmup_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, as JSON can hold them; tokens are left out."""
        fields = dataclasses.asdict(self)
        return {
            name: str(value) if isinstance(value, enum.Enum) else value
            for name, value in fields.items()
            if not name.endswith("_token")
        }

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)


_BOOLEANS = (
    *("overwrite_output_dir", "do_train", "do_eval", "do_predict", "prediction_loss_only"),
    *("logging_first_step", "save_only_model", "no_cuda", "use_cpu", "dataloader_drop_last"),
    *("remove_unused_columns", "load_best_model_at_end", "group_by_length", "gradient_checkpointing", "bf16"),
    *("include_inputs_for_metrics", "full_determinism", "include_tokens_per_second"),
    "include_num_input_tokens_seen",
)
_LARGEST = math.inf
_NUMBERS = (
    ("eval_delay", 0.0, _LARGEST),
    ("learning_rate", 0.0, _LARGEST),
    ("weight_decay", 0.0, _LARGEST),
    ("adam_beta1", 0.0, 1.0),
    ("adam_beta2", 0.0, 1.0),
    ("adam_epsilon", 0.0, _LARGEST),
    ("max_grad_norm", 0.0, _LARGEST),
    ("num_train_epochs", 0.0, _LARGEST),
    ("warmup_ratio", 0.0, 1.0),
    ("label_smoothing_factor", 0.0, 1.0),
)
_OPEN_ENDED = frozenset(name for name, _, high in _NUMBERS if name != "warmup_ratio")
_INTEGERS = (
    ("per_device_train_batch_size", 1),
    ("per_device_eval_batch_size", 1),
    ("gradient_accumulation_steps", 1),
    ("max_steps", -1),
    ("warmup_steps", 0),
)


def _choice(name: str, value: Any, kind: type[enum.StrEnum]) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name}: expected one of {', '.join(kind)}, got {value!r}") from None


def _reports(given: Any) -> list[str]:
    """Return the logs to write."""
    if given is None or given in ("all", ["all"]):
        return list(_REPORTS)
    if given in ("none", ["none"], []):
        return []
    names: Sequence[str] | Iterable[str] = [given] if isinstance(given, str) else list(given)
    for name in names:
        if name not in _REPORTS:
            raise UnsupportedError(
                f"report_to={given!r}: expected 'jsonl', 'all' or 'none'; other services are fed by a "
                "TrainerCallback's on_log"
            )
    return list(dict.fromkeys(names))
