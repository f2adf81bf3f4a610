# SPDX-License-Identifier: Apache-2.0
"""What training needs of a model: the way back, gradients, which parameters are trained, and how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import ShapeError, StateError
from qdqbert.forward_inputs import as_floats
from qdqbert.modeling_bound import THAW
from qdqbert.modeling_engine import Engine
from qdqbert.module import Module
from qdqbert.name_globs import matching_any, matching_names
from qdqbert.parameter import Parameter
from qdqbert.recording import InputGradients, OutputGradients

if TYPE_CHECKING:
    from qdqbert.freezing import FreezeReport

__all__ = ["TrainableModel"]

# What `parameter_groups` does not decay: shifts and scales, as everybody does, and the bounds of quantizers.
_NO_DECAY = ("*bias", "*LayerNorm.*", "*.clip.clip_value_*")


class TrainableModel(Module):
    """What training needs of a model."""

    _engine: Engine
    _prefix: str

    def backward(
        self,
        d_last_hidden_state: Any = None,
        *,
        d_pooler_output: Any = None,
        d_logits: Any = None,
        d_hidden_states: Sequence[Any] | None = None,
        wants_inputs: bool = False,
    ) -> InputGradients:
        """Walk the last forward back: for heads and losses of your own.

        ``out.loss.backward()`` does this for a model's own loss.  Gradients are added to `Parameter.grad`.

        Parameters
        ----------
        d_last_hidden_state : floats, shape (batch, length, hidden), optional
            Gradient of your loss with respect to ``last_hidden_state`` (the last of ``hidden_states``).
        d_pooler_output : floats, shape (batch, hidden), optional
        d_logits : floats, shape of the logits, optional
            Of a model for question answering: the pair for start and end.
        d_hidden_states : sequence of (floats, shape (batch, length, hidden), or None), optional
            One for each of ``hidden_states``: before each layer, and after the last.
        wants_inputs : bool
            Whether to return the gradients of the inputs.

        Returns
        -------
        InputGradients
            ``inputs_embeds`` and ``encoder_hidden_states``; None where not wanted, or not there.

        Raises
        ------
        StateError
            If this thread has no forward in training mode that can be walked back, or the model has changed
            since.
        TypeError, ShapeError, ValueError
            For gradients of a wrong kind or shape, or of what the forward did not compute.
        UnsupportedError
            If a quantizer of the model has no gradient; it is named.
        """
        recording = self._engine.recorded
        if recording is None:
            raise StateError(
                "backward: there is no recorded forward to walk back: call model.train() before the forward"
            )
        gradients = OutputGradients(
            logits=None if d_logits is None else self._logits_gradient(d_logits),
            last_hidden_state=as_floats("d_last_hidden_state", d_last_hidden_state),
            pooler_output=as_floats("d_pooler_output", d_pooler_output),
            hidden_states=self._hidden_gradients(d_hidden_states),
        )
        return recording.backward(gradients, bool(wants_inputs))

    def _hidden_gradients(self, d_hidden_states: Sequence[Any] | None) -> tuple[Array | None, ...]:
        if d_hidden_states is None:
            return ()
        if isinstance(d_hidden_states, np.ndarray) or not isinstance(d_hidden_states, Sequence):
            raise TypeError(
                f"d_hidden_states: expected a list of arrays or None, got {type(d_hidden_states).__name__}"
            )
        count = self._engine.handles.bound.config.num_hidden_layers + 1
        if len(d_hidden_states) != count:
            raise ShapeError(f"d_hidden_states: expected {count} entries, got {len(d_hidden_states)}")
        return tuple(as_floats(f"d_hidden_states[{i}]", each) for i, each in enumerate(d_hidden_states))

    def _logits_gradient(self, d_logits: Any) -> Array:
        """Return the gradient of the model's logits in the shape that the C model gives them."""
        array = as_floats("d_logits", d_logits)
        assert array is not None
        return array

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters: `Parameter.grad` is None until the next backward.

        Raises
        ------
        StateError
            If another thread runs backward on the model at this moment.
        """
        if self._prefix:  # the base model inside another one, whose head is left alone
            super().zero_grad()
            return
        self._engine.core.zero_gradients()
        for parameter in self.parameters():
            parameter.state.has_gradient = False

    # ---- dropout -------------------------------------------------------------------------------------------

    @property
    def dropout_seed(self) -> int:
        """With `dropout_step`, all that dropout depends on beside the inputs: an int in [0, 2**64); settable.

        Equal numbers drop equal elements, on any number of threads.
        """
        return self._engine.dropout_seed

    @dropout_seed.setter
    def dropout_seed(self, value: int) -> None:
        self._engine.dropout_seed = _word("dropout_seed", value)

    @property
    def dropout_step(self) -> int:
        """Number of the next forward in training mode: an int in [0, 2**64); settable, to repeat one."""
        return self._engine.dropout_step

    @dropout_step.setter
    def dropout_step(self, value: int) -> None:
        self._engine.dropout_step = _word("dropout_step", value)

    def _dropout_probabilities(self) -> Array:
        """Return the probability at each place where the C model can drop; see `_core.Session.forward`."""
        base = self._modules.get("bert", self)
        places: list[tuple[str, Module | None]] = [("embeddings.dropout", base.embeddings.dropout)]
        for index, layer in enumerate(base.encoder.layer):
            path = f"encoder.layer.{index}"
            for name in ("attention", "crossattention"):
                attention = layer._modules.get(name)
                for part in ("self", "output"):
                    module = None if attention is None else attention._modules[part].dropout
                    places.append((f"{path}.{name}.{part}.dropout", module))
            places.append((f"{path}.output.dropout", layer.output.dropout))
        places.append(("dropout", self._modules.get("dropout")))
        return np.array([_probability(name, module) for name, module in places], np.float32)

    # ---- bf16 products -------------------------------------------------------------------------------------

    @property
    def uses_bf16_products(self) -> bool:
        """Whether training rounds the operands of products to bfloat16; see `bf16_products_enable`."""
        return self._engine.bf16_products

    def bf16_products_enable(self) -> None:
        """Let training multiply bfloat16 numbers, where the CPU has an instruction that does two at once.

        The products of linear layers, one in forward and two in backward, round both operands to bfloat16 and
        add up in float32.  All else stays float32: weights (also in checkpoints), optimizer, attention's own
        products, LayerNorm, softmax, loss.  Quantized layers that run on int8 codes still do in forward.  A
        forward in evaluation mode is not affected.

        Training then has equal bits on every device with these products, for any number of threads, batch
        mates and padding.  They differ from those of float32: an element of a product by at most 0.8 % of the
        sum of its terms' magnitudes, for up to 3,072 of them.

        Raises
        ------
        UnsupportedError
            If the model's device has no such products, or its processor's differ from what is documented,
            which is tried.  CPUs with AVX512-BF16 have them, and ``Device(isa="ref")``, slowly.

        Examples
        --------
        >>> import qdqbert
        >>> device = qdqbert.Device(isa="ref")
        >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
        >>> model = qdqbert.QDQBertModel(config, device=device)
        >>> model.bf16_products_enable()
        >>> model.uses_bf16_products
        True
        """
        self._engine.core.device.check_bf16()
        self._engine.bf16_products = True

    def bf16_products_disable(self) -> None:
        """Let training multiply float32 numbers, as it does unless told otherwise."""
        self._engine.bf16_products = False

    # ---- what is trained -----------------------------------------------------------------------------------

    @overload
    def freeze(self) -> FreezeReport: ...

    @overload
    def freeze(self, pattern: str, /, *patterns: str) -> None: ...

    def freeze(self, *patterns: str) -> FreezeReport | None:
        """Freeze the model for inference; or, with patterns, take parameters out of training.

        ``model.freeze()`` packs the weight of every linear layer that multiplies int8 codes for this
        machine's kernels, and gives its floats back: the codes take a quarter of them.  Forward gives the
        same bits.  Embeddings, LayerNorm, biases, pooler and heads stay float32, since their products and
        sums are of floats; so do weights of layers that do not multiply codes, as `execution_sites` says.

        What would need the floats again is refused with the layer's name: training mode, optimizers,
        `load_state_dict` of other codes than a frozen weight has, changing the quantizers of its layer (so
        also calibration and learned ranges), pruning and resizing.  To thaw a model, load its checkpoint
        again.  ``weight`` of a frozen layer, also in `state_dict`, is ``code / scale``, computed on each
        access: what the model multiplies; it is no parameter any more.  Copies and pickles of a frozen model
        are frozen.

        A range that each forward would take from a weight is fixed as it is.  A call may run beside forwards
        of other threads.  Parts of the model that are enabled later can be frozen by another call.

        ``model.freeze("bert.embeddings.*", "*.layer.[0-3].*")`` is about training alone: parameters whose
        names match keep their values, see `unfreeze`.

        Parameters
        ----------
        *patterns : str
            Globs over whole dotted names, where ``*`` also crosses dots.

        Returns
        -------
        FreezeReport or None
            Without patterns: what is frozen, what is not and why, and the bytes.

        Raises
        ------
        StateError
            Without patterns, and then nothing is changed: if the model is in training mode, no layer of it
            multiplies int8 codes, or another thread changes it meanwhile.
        ValueError
            If a weight has a NaN or an infinity.
        MemoryError
            If there is not enough memory for the codes beside the floats.
        TypeError
            If a pattern is no string.
        RuleError
            If one matches no parameter; a KeyError, with the nearest names.  Nothing is changed then.

        Examples
        --------
        >>> import qdqbert
        >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
        >>> model = qdqbert.QDQBertModel(config)
        >>> len(model.freeze().frozen)
        72
        """
        if not patterns:
            return self._freeze()
        for parameter in self._matching(patterns):
            parameter.requires_grad = False
        return None

    def _freeze(self) -> FreezeReport:
        from qdqbert.freezing import freeze_engine

        # What is frozen is the whole C model, whichever of its models is asked.
        if any(module.training for module in self._engine.own if isinstance(module, TrainableModel)):
            raise StateError(
                "freeze: the model is in training mode; call eval() before it is frozen for inference, or "
                "name the parameters that are to be taken out of training"
            )
        return freeze_engine(self._engine)

    @property
    def is_frozen(self) -> bool:
        """Whether weights are kept as int8 codes; see `freeze`."""
        return bool(self._engine.handles.bound.codes)

    def _require_floats(self, what: str) -> None:
        """Refuse what needs the floats of a model that is frozen."""
        codes = self._engine.handles.bound.codes
        if codes:
            raise StateError(
                f"{what}: the model is frozen: {next(iter(codes))} and {len(codes) - 1} more weights are "
                f"int8 codes alone; {THAW}"
            )

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training mode, and return it; see `Module.train`.

        Parameters
        ----------
        mode : bool
            False: as `eval`.

        Raises
        ------
        TypeError
            If `mode` is no bool.
        StateError
            If the model is frozen.
        """
        if mode is True:
            self._require_floats("train")
        return super().train(mode)

    def unfreeze(self, *patterns: str) -> None:
        """Put parameters back into training: the reverse of `freeze`.

        Parameters
        ----------
        *patterns : str
            Globs over whole dotted names.

        Raises
        ------
        TypeError
            If a pattern is no string.
        RuleError
            If one matches no parameter; a KeyError, with the nearest names.  Nothing is changed then.
        """
        for parameter in self._matching(patterns):
            parameter.requires_grad = True

    def parameter_groups(
        self,
        *,
        weight_decay: float = 0.01,
        no_decay: Iterable[str] | None = None,
        lr: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return the trained parameters as groups for an optimizer: those that decay, and those that do not.

        Parameters
        ----------
        weight_decay : float
            Of the first group; the second has 0.
        no_decay : iterable of str, optional
            Globs over whole dotted names; biases, LayerNorm and learned bounds if left out.
        lr : float, optional
            Learning rate of both groups; that of the optimizer if left out.

        Returns
        -------
        list of dict
            ``{"params": list of Parameter, "weight_decay": float}``, with ``"lr"`` if it is given.  An empty
            group is left out.

        Raises
        ------
        TypeError
            If a pattern is no string.
        RuleError
            If one matches no parameter; a KeyError, with the nearest names.

        Examples
        --------
        >>> import qdqbert
        >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
        >>> groups = qdqbert.QDQBertModel(config).parameter_groups(weight_decay=0.1)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(76, 0.1), (123, 0.0)]
        """
        names = [name for name, _ in self.named_parameters()]
        if no_decay is None:  # a model need not have all of these
            spared = {name for pattern in _NO_DECAY for name in matching_names(pattern, names)}
        else:
            if not isinstance(no_decay, Iterable) or isinstance(no_decay, memoryview):
                raise TypeError(f"no_decay: expected globs, got {type(no_decay).__name__}")
            patterns = (no_decay,) if isinstance(no_decay, str) else tuple(no_decay)
            spared = matching_any(patterns, names, "parameter")
        rate = {} if lr is None else {"lr": lr}
        trained = [
            (name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad
        ]
        groups = [
            {
                "params": [parameter for name, parameter in trained if (name in spared) == is_spared],
                "weight_decay": 0.0 if is_spared else weight_decay,
                **rate,
            }
            for is_spared in (False, True)
        ]
        return [group for group in groups if group["params"]]

    def _matching(self, patterns: tuple[str, ...]) -> list[Parameter]:
        named = list(self.named_parameters())
        found = matching_any(patterns, [name for name, _ in named], "parameter")
        return [parameter for name, parameter in named if name in found]


def _probability(name: str, module: Any) -> float:
    """Return the probability with which a dropout module drops now."""
    if module is None or not module.training:
        return 0.0
    p = module.p
    if isinstance(p, bool) or not isinstance(p, int | float | np.integer | np.floating):
        raise TypeError(f"{name}.p: expected a number, got {type(p).__name__}")
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}.p: expected a probability, 0 .. 1, got {p}")
    return float(p)


def _word(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: expected 0 .. 2**64 - 1, got {value}")
    return int(value)
