# SPDX-License-Identifier: Apache-2.0
# The C extension. Tensors are objects with the buffer protocol: C-contiguous float32; ids and counts int64.
from collections.abc import Sequence
from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Tensor: TypeAlias = NDArray[Any] | memoryview

__version__: str

@final
class Device:
    def __new__(cls, isa: str | None = None, num_threads: int = 0) -> Self: ...
    @property
    def isa(self) -> str: ...
    num_threads: int
    def check_bf16(self) -> None: ...
    def kernels(self) -> list[tuple[str, str]]: ...
    def memory_statistics(self) -> dict[str, int]: ...
    def peak(self, operands: str, rounds: int, /) -> int: ...
    def time_product(
        self, operands: str, rows: int, n: int, k: int, weights: int, repeats: int, /
    ) -> NDArray[np.float64]: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: Any, /) -> Self: ...

def cpu_limits() -> dict[str, int]: ...
def variants() -> list[tuple[str, bool]]: ...

STAGE_DISABLED: int
STAGE_QUANT: int
STAGE_CLIP: int
STAGE_CALIB: int

@final
class Quantizer:
    def __new__(cls, device: Device, options: dict[str, Any] | None = None) -> Self: ...
    stages: int
    def options(self) -> dict[str, Any]: ...
    def set_options(self, options: dict[str, Any], /) -> None: ...
    def amax(self) -> NDArray[np.float32] | None: ...
    def set_amax(self, values: _Tensor | None, /) -> None: ...
    def clip(self) -> tuple[float, float]: ...
    def set_clip(self, minimum: float, maximum: float, /) -> None: ...
    def clip_gradient(self) -> tuple[float, float]: ...
    def set_clip_gradient(self, minimum: float, maximum: float, /) -> None: ...
    def pre_quant_scale(self) -> NDArray[np.float32] | None: ...
    def set_pre_quant_scale(self, values: _Tensor | None, /) -> None: ...
    def set_observer(self, observer: Observer | None, /) -> None: ...
    def forward(self, x: _Tensor, /) -> NDArray[np.float32]: ...

@final
class Observer:
    def __new__(
        cls,
        device: Device,
        kind: str,
        *,
        axis: tuple[int, ...] | None = None,
        track_amax: bool = False,
        num_bins: int = 2048,
        skip_zeros: bool = False,
        rule: str = "from_zero",
        fixed_max: float = 0.0,
    ) -> Self: ...
    @property
    def kind(self) -> str: ...
    @property
    def has_data(self) -> bool: ...
    def collect(self, x: _Tensor, /) -> None: ...
    def reset(self) -> None: ...
    def merge(self, other: Observer, /) -> None: ...
    def amax(self) -> NDArray[np.float32]: ...
    def set_amax(self, values: _Tensor, /) -> None: ...
    def tracked(self) -> list[NDArray[np.float32]]: ...
    def histogram(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def set_histogram(self, counts: _Tensor, edges: _Tensor, /) -> None: ...
    def fine_edges(self) -> NDArray[np.float64] | None: ...
    def set_fine_edges(self, edges: _Tensor, /) -> None: ...

@final
class Model:
    def __new__(
        cls,
        device: Device,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_positions: int,
        type_vocab_size: int,
        num_labels: int,
        layer_norm_eps: float,
        hidden_act: str,
        add_pooling_layer: bool,
        head: str,
        input_quantizer: dict[str, Any],
        weight_quantizer: dict[str, Any],
        position_embedding_type: str = "absolute",
        add_cross_attention: bool = False,
        tie_word_embeddings: bool = True,
        heads_of_layers: Sequence[int] | None = None,
        padding_token: int | None = None,
    ) -> Self: ...
    @property
    def device(self) -> Device: ...
    @property
    def dropout_count(self) -> int: ...
    def parameters(self) -> list[tuple[str, NDArray[np.float32]]]: ...
    def parameter_write(self, index: int, /) -> NDArray[np.float32]: ...
    def gradient(self, index: int, /) -> NDArray[np.float32] | None: ...
    def set_trainable(self, index: int, is_trainable: bool, /) -> None: ...
    def zero_gradients(self, indices: _Tensor | None = None, /) -> None: ...
    def gradient_norm(self, indices: _Tensor | None = None, /) -> float: ...
    def scale_gradients(self, factor: float, indices: _Tensor | None = None, /) -> None: ...
    def quantizers(self) -> list[tuple[str, Quantizer]]: ...
    def sites(self) -> list[tuple[str, str, str, str, str, str]]: ...
    def needs_probabilities(self) -> bool: ...

OUTPUT_LAST_HIDDEN_STATE: int
OUTPUT_POOLER_OUTPUT: int
OUTPUT_LOGITS: int
OUTPUT_HIDDEN_STATES: int
OUTPUT_ATTENTIONS: int
OUTPUT_CROSS_ATTENTIONS: int
OUTPUT_CACHE: int

@final
class Change:
    def __new__(cls, owners: Sequence[Model | Quantizer]) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, exception: object, traceback: object, /) -> None: ...

class Undoing:
    def __new__(cls) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, exception: object, traceback: object, /) -> None: ...

@final
class Optimizer:
    def __new__(cls, model: Model, kind: str) -> Self: ...
    def step(
        self,
        indices: _Tensor,
        learning_rate: float,
        weight_decay: float,
        beta1: float,
        beta2: float,
        eps: float,
        momentum: float,
        is_nesterov: bool,
        /,
    ) -> None: ...
    def state(self, index: int, /) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, int]: ...
    def set_steps(self, index: int, steps: int, /) -> None: ...

@final
class Session:
    def __new__(
        cls,
        model: Model,
        *,
        max_sequences: int,
        max_length: int,
        max_tokens: int = 0,
        keep_probabilities: bool = False,
        max_past: int = 0,
        max_encoder_length: int = 0,
        trains: bool = False,
        recomputes: bool = False,
        bf16_products: bool = False,
    ) -> Self: ...
    def backward(
        self,
        d_last_hidden_state: _Tensor | None,
        d_pooler_output: _Tensor | None,
        d_logits: _Tensor | None,
        wants_inputs: bool,
        wants_encoder: bool,
        d_hidden_states: Sequence[_Tensor | None] | None = None,
        /,
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]: ...
    @property
    def trains(self) -> bool: ...
    @property
    def recomputes(self) -> bool: ...
    @property
    def bf16_products(self) -> bool: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def keep_probabilities(self) -> bool: ...
    @property
    def max_past(self) -> int: ...
    @property
    def max_encoder_length(self) -> int: ...
    def forward(
        self,
        input_ids: _Tensor | None,
        inputs_embeds: _Tensor | None,
        attention_mask: _Tensor | None,
        token_type_ids: _Tensor | None,
        position_ids: _Tensor | None,
        head_mask: _Tensor | None,
        compute_padding: bool,
        is_causal: bool,
        past_keys: Sequence[_Tensor] | None,
        past_values: Sequence[_Tensor] | None,
        encoder_hidden_states: _Tensor | None,
        encoder_attention_mask: _Tensor | None,
        cross_keys: Sequence[_Tensor] | None,
        cross_values: Sequence[_Tensor] | None,
        outputs: int,
        logits_positions: _Tensor | None = None,
        dropout: tuple[int, int, _Tensor] | None = None,
        /,
    ) -> tuple[
        NDArray[np.float32] | None,
        NDArray[np.float32] | None,
        NDArray[np.float32] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
        tuple[NDArray[np.float32], ...] | None,
    ]: ...

def cross_entropy(
    device: Device, logits: _Tensor, labels: _Tensor, ignore_index: int, label_smoothing: float, /
) -> float: ...
def mean_squared_error(x: _Tensor, y: _Tensor, /) -> float: ...
def binary_cross_entropy(logits: _Tensor, labels: _Tensor, /) -> float: ...
def cross_entropy_grad(
    device: Device,
    logits: _Tensor,
    labels: _Tensor,
    ignore_index: int,
    label_smoothing: float,
    factor: float,
    /,
) -> NDArray[np.float32]: ...
def kl_divergence(
    device: Device,
    logits: _Tensor,
    teacher: _Tensor,
    labels: _Tensor | None,
    ignore_index: int,
    temperature: float,
    /,
) -> float: ...
def kl_divergence_grad(
    device: Device,
    logits: _Tensor,
    teacher: _Tensor,
    labels: _Tensor | None,
    ignore_index: int,
    temperature: float,
    factor: float,
    /,
) -> NDArray[np.float32]: ...
def mean_squared_error_grad(x: _Tensor, y: _Tensor, factor: float, /) -> NDArray[np.float32]: ...
def binary_cross_entropy_grad(logits: _Tensor, labels: _Tensor, factor: float, /) -> NDArray[np.float32]: ...
def tensor_quant(
    device: Device, x: _Tensor, amax: _Tensor, num_bits: int, unsigned: bool, narrow_range: bool, /
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def fake_tensor_quant(
    device: Device, x: _Tensor, amax: _Tensor, num_bits: int, unsigned: bool, narrow_range: bool, /
) -> NDArray[np.float32]: ...
def tensor_quant_grad(device: Device, x: _Tensor, amax: _Tensor, dy: _Tensor, /) -> NDArray[np.float32]: ...
def scaled_e4m3(device: Device, x: _Tensor, amax: _Tensor | None, /) -> NDArray[np.float32]: ...
def fake_affine(
    device: Device, x: _Tensor, minimum: float, maximum: float, num_bits: int, /
) -> NDArray[np.float32]: ...
def clip(device: Device, x: _Tensor, minimum: _Tensor, maximum: _Tensor, /) -> NDArray[np.float32]: ...
def clip_grad(
    device: Device, x: _Tensor, minimum: _Tensor, maximum: _Tensor, dy: _Tensor, /
) -> tuple[NDArray[np.float32], float, float]: ...
def reduce_amax(device: Device, x: _Tensor, kept: tuple[int, ...], /) -> NDArray[np.float32]: ...
def quant_linear(
    device: Device,
    input_quantizer: Quantizer,
    weight_quantizer: Quantizer,
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    /,
) -> NDArray[np.float32]: ...
def amax_percentile(counts: _Tensor, edges: _Tensor, percentile: float, /) -> float: ...
def amax_mse(
    device: Device,
    counts: _Tensor,
    edges: _Tensor,
    num_bits: int,
    unsigned: bool,
    stride: int,
    start_bin: int,
    /,
) -> float: ...
def amax_entropy(
    device: Device,
    counts: _Tensor,
    edges: _Tensor,
    num_bits: int,
    unsigned: bool,
    stride: int,
    start_bin: int,
    /,
) -> float: ...
