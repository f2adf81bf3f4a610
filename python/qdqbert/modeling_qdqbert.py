# SPDX-License-Identifier: Apache-2.0
"""The models: `QDQBertModel`, `QDQBertForQuestionAnswering`, `QDQBertForSequenceClassification`.

Signatures, defaults and outputs are those of transformers' QDQBERT; arrays are NumPy's.  Three things are decided
differently, and on purpose:

- ``model.padding``: positions whose ``attention_mask`` is 0 are not computed and read as zero (``"skip"``).  The
  original computes them, lets them into its statistics and then nobody uses them; ``"compute"`` does the same.
- Models are in evaluation mode from the start, since training is not built yet.
- Fresh weights come from a seed, parameter by parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert import modeling_outputs as outputs_of
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device, default_device
from qdqbert.errors import CheckpointError, ShapeError, UnsupportedError
from qdqbert.forward_inputs import as_floats, as_head_mask, as_integers, as_labels
from qdqbert.modeling_tree import Dropout, Handles, Linear, QDQBertEmbeddings, QDQBertEncoder, QDQBertPooler
from qdqbert.module import Module
from qdqbert.nn import QuantLinear
from qdqbert.nn.tensor_quantizer import descriptor_options
from qdqbert.quantization_settings import apply_deviations, describe, read_descriptors
from qdqbert.serialization.folder import Source
from qdqbert.serialization.loading import (
    LoadingReport,
    load_tensors,
    log_report,
    tensors_of_files,
    tensors_of_state_dict,
)
from qdqbert.serialization.saving import save_weights
from qdqbert.sessions import SessionPool

__all__ = [
    "QDQBertForQuestionAnswering",
    "QDQBertForSequenceClassification",
    "QDQBertModel",
    "QDQBertPreTrainedModel",
]

Array = npt.NDArray[Any]
_PADDINGS = ("skip", "compute")


class _Engine:
    """What a model and the base model inside it share: the C model, its handles, its sessions, the padding rule."""

    def __init__(self, config: QDQBertConfig, head: str, add_pooling_layer: bool, device: Device | None) -> None:
        config.validate()
        descriptors = read_descriptors(getattr(config, "quantization_config", None))
        if descriptors is None:
            descriptors = (QuantLinear.default_quant_desc_input, QuantLinear.default_quant_desc_weight)
        self.input_desc, self.weight_desc = descriptors
        self.padding = "skip"
        self.core = _core.Model(
            default_device() if device is None else device,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            num_labels=config.num_labels,
            layer_norm_eps=config.layer_norm_eps,
            hidden_act=config.hidden_act,
            add_pooling_layer=add_pooling_layer,
            head=head,
            input_quantizer=descriptor_options(self.input_desc),
            weight_quantizer=descriptor_options(self.weight_desc),
        )
        self.handles = Handles(self.core, self.input_desc, self.weight_desc)
        self.sessions = SessionPool(self.core)


class QDQBertPreTrainedModel(Module):
    """What all models share: construction, loading, saving, and the forward call.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
        Where to run; the process's default device if left out.
    seed : int
        Of the fresh weights.
    """

    config_class = QDQBertConfig
    base_model_prefix: ClassVar[str] = "bert"
    main_input_name: ClassVar[str] = "input_ids"
    _head: ClassVar[str]

    config: QDQBertConfig

    def _build(
        self, config: QDQBertConfig, device: Device | None, seed: int | None, add_pooling_layer: bool = True
    ) -> _Engine:
        if not isinstance(config, QDQBertConfig):
            raise TypeError(f"config: expected QDQBertConfig, got {type(config).__name__}")
        super().__init__()
        self.config = config
        self.name_or_path = config.name_or_path
        self._engine = _Engine(config, self._head, add_pooling_layer, device)
        self._build_children()
        if seed is not None:
            self._initialize(seed, {name for name, _ in self.named_parameters()})
        return self._engine

    def _build_children(self) -> None:
        raise NotImplementedError

    # ---- fresh weights -----------------------------------------------------------------------------------------

    def _initialize(self, seed: int, names: set[str]) -> None:
        """Normal weights, zero biases, zero padding row, LayerNorm at one; nothing for quantizers (REFERENCE 1.9)."""
        for index, (name, slot) in enumerate(self._named_slots()):
            if name not in names or not slot.is_parameter or slot.open is None:
                continue
            target = slot.open()
            if name.endswith("LayerNorm.weight"):
                target.fill(1.0)
            elif name.endswith(".bias"):
                target.fill(0.0)
            else:
                # One stream per parameter: which others are fresh does not change the numbers.
                np.random.default_rng([seed, index]).standard_normal(out=target, dtype=np.float32)
                target *= np.float32(self.config.initializer_range)
                padding = self.config.pad_token_id
                if name.endswith("word_embeddings.weight") and padding is not None and 0 <= padding < len(target):
                    target[padding] = 0.0

    # ---- properties --------------------------------------------------------------------------------------------

    @property
    def padding(self) -> str:
        """What happens at positions whose mask is 0: ``"skip"`` or ``"compute"``."""
        return self._engine.padding

    @padding.setter
    def padding(self, value: str) -> None:
        if value not in _PADDINGS:
            raise ValueError(f"padding: expected 'skip' or 'compute', got {value!r}")
        self._engine.padding = value

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._engine.core.device

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Number format of the parameters."""
        return np.dtype(np.float32)

    @property
    def base_model(self) -> QDQBertModel:
        """The model without its head."""
        model = self._modules.get(self.base_model_prefix, self)
        assert isinstance(model, QDQBertModel)
        return model

    def get_input_embeddings(self) -> Module:
        """Return the word embedding."""
        return self.base_model.get_submodule("embeddings.word_embeddings")

    def num_parameters(self, exclude_embeddings: bool = False) -> int:
        """Return the number of elements of all parameters.

        Parameters
        ----------
        exclude_embeddings : bool
            Leave the embedding tables out.
        """
        return sum(
            value.size
            for name, value in self.named_parameters()
            if not (exclude_embeddings and name.endswith("_embeddings.weight"))
        )

    def execution_sites(self) -> list[tuple[str, str, str]]:
        """Return (name, path, reason) of every product: ``"integer"``, ``"float"`` or ``"dequantized"``, and why."""
        return self._engine.core.sites()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Refuse, as the original does.

        Raises
        ------
        UnsupportedError
            Always; it is also a NotImplementedError.
        """
        raise UnsupportedError(f"`resize_position_embeddings` is not implemented for {type(self)}")

    # ---- forward -----------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; see the subclasses."""
        raise NotImplementedError

    def _run(
        self,
        wanted: int,
        input_ids: Any,
        attention_mask: Any,
        token_type_ids: Any,
        position_ids: Any,
        head_mask: Any,
        inputs_embeds: Any,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[Any, Any, Any, tuple[Array, ...] | None, tuple[Array, ...] | None]:
        """Convert the arguments, run, and split the stacked outputs into tuples of layers."""
        config = self.config
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("You cannot specify both input_ids and inputs_embeds at the same time")
        if input_ids is None and inputs_embeds is None:
            raise ValueError("You have to specify either input_ids or inputs_embeds")
        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        want_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted |= _core.OUTPUT_ATTENTIONS if want_attentions else 0
        wanted |= _core.OUTPUT_HIDDEN_STATES if want_states else 0
        ids, embeds = as_integers("input_ids", input_ids), as_floats("inputs_embeds", inputs_embeds)
        mask = as_integers("attention_mask", attention_mask)
        heads = as_head_mask(head_mask, config.num_hidden_layers, config.num_attention_heads)
        batch, length = self._batch_and_length(ids, embeds)
        keep = bool(want_attentions) or heads is not None or self._engine.core.needs_probabilities()
        compute = self.padding == "compute" or (mask is not None and mask.ndim == 3)
        with self._engine.sessions.session(batch, length, keep) as session:
            last, pooled, logits, states, attentions = session.forward(
                ids,
                embeds,
                mask,
                as_integers("token_type_ids", token_type_ids),
                as_integers("position_ids", position_ids),
                heads,
                compute,
                wanted,
            )
        return (
            last,
            pooled,
            logits,
            None if states is None else tuple(states),
            None if attentions is None else tuple(attentions),
        )

    def _batch_and_length(self, ids: Array | None, embeds: Array | None) -> tuple[int, int]:
        name, array, rank = ("input_ids", ids, 2) if ids is not None else ("inputs_embeds", embeds, 3)
        assert array is not None
        if array.ndim != rank or array.size == 0:
            raise ShapeError(
                f"{name}: expected {'(batch, length)' if rank == 2 else '(batch, length, hidden)'} with at least "
                f"one sequence and one token, got {array.shape}"
            )
        batch, length = array.shape[:2]
        if length > self.config.max_position_embeddings:
            raise ShapeError(
                f"{name}: {length} tokens in a sequence, the model has {self.config.max_position_embeddings} positions"
            )
        return int(batch), int(length)

    # ---- loading and saving ------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: QDQBertConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Any] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        padding: str = "skip",
        device: Device | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, or from the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str, path or None
            A folder (the network is never touched) or the name of a repository; None together with `config` and
            `state_dict`.
        config : QDQBertConfig or path, optional
            Instead of the folder's ``config.json``.
        state_dict : mapping of str to array, optional
            Instead of the folder's weights.
        revision, cache_dir, local_files_only, token, subfolder
            As in ``huggingface_hub``.
        output_loading_info : bool
            Return (model, dictionary with ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``,
            ``error_msgs``).
        ignore_mismatched_sizes : bool
            Initialize tensors of another shape anew instead of refusing the checkpoint.
        padding : {"skip", "compute"}
            See `padding`.
        device : Device, optional
        seed : int
            Of weights that the checkpoint lacks.
        **kwargs
            Fields of the configuration to override, and for `QDQBertModel` ``add_pooling_layer``.

        Returns
        -------
        model, or (model, dict)

        Raises
        ------
        CheckpointError
            If files are missing or damaged, the model is of another kind, or shapes differ.
        UnsupportedError
            For formats and features that are not built yet.
        TypeError
            For an unknown keyword.
        """
        model_kwargs = {key: kwargs.pop(key) for key in cls._model_arguments() if key in kwargs}
        source = None
        if pretrained_model_name_or_path is not None:
            source = Source(
                pretrained_model_name_or_path,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                subfolder=subfolder,
            )
        elif config is None or state_dict is None:
            raise ValueError("pretrained_model_name_or_path: None needs both config and state_dict")
        config = _resolve_config(cls, config, source, kwargs)
        model = cls(config, device=device, seed=None, **model_kwargs)  # type: ignore[call-arg]
        model.padding = padding
        report = model._load(source, state_dict, ignore_mismatched_sizes)
        fresh = {*report.missing_keys, *(name for name, _, _ in report.mismatched_keys)}
        model._initialize(seed, fresh)
        model.name_or_path = source.name if source else ""
        log_report(report, cls.__name__, model.name_or_path or "state_dict", config.architectures)
        return (model, report.as_dict()) if output_loading_info else model

    @classmethod
    def _model_arguments(cls) -> tuple[str, ...]:
        return ()

    def _load(
        self, source: Source | None, state_dict: Mapping[str, Any] | None, ignore_mismatched_sizes: bool
    ) -> LoadingReport:
        section = getattr(self.config, "quantization_config", None)
        apply_deviations(section, self._engine.core.quantizers())
        slots = {name: slot for name, slot in self._named_slots() if slot.persistent}
        options = {
            "class_name": type(self).__name__,
            "base_prefix": self.base_model_prefix,
            "ignore_mismatched_sizes": ignore_mismatched_sizes,
        }
        if state_dict is not None:
            report = load_tensors(slots, tensors_of_state_dict(state_dict), **options)  # type: ignore[arg-type]
        else:
            assert source is not None
            with tensors_of_files(source.weight_files()) as tensors:
                report = load_tensors(slots, tensors, **options)  # type: ignore[arg-type]
        required = [name for name, slot in slots.items() if slot.required]
        if len(report.missing_keys) == len(required) and report.unexpected_keys:
            raise CheckpointError(
                f"{source.name if source else 'state_dict'}: holds none of the {len(required)} tensors of a "
                f"{type(self).__name__}; it has {', '.join(report.unexpected_keys[:3])}, ..."
            )
        return report

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Write ``config.json`` and the weights, with the range of every quantizer that has one.

        Parameters
        ----------
        save_directory : str or path
            Made if it is missing; files of an older model in it are replaced, one at a time and each at once.
        max_shard_size : int or str
            Largest amount of tensor data in one file, in bytes or as ``"200MB"``.

        Raises
        ------
        NotADirectoryError
            If `save_directory` is a file.
        OSError
            If a file cannot be written; it is then as it was.
        """
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory: {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, self.state_dict(), max_shard_size)
        config = type(self.config).from_dict(self.config.to_dict())
        assert isinstance(config, QDQBertConfig)
        config.architectures = [type(self).__name__]
        config.torch_dtype = "float32"
        section = describe(self._engine.core.quantizers(), self._engine.input_desc, self._engine.weight_desc)
        if section is not None:
            config.quantization_config = section
        elif hasattr(config, "quantization_config"):
            del config.quantization_config
        config.save_pretrained(folder)


class QDQBertModel(QDQBertPreTrainedModel):
    """BERT without a head: hidden states, and a pooled vector of the first token.

    Parameters
    ----------
    config : QDQBertConfig
    add_pooling_layer : bool
        Whether there is a pooler.
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "none"

    def __init__(
        self,
        config: QDQBertConfig,
        add_pooling_layer: bool = True,
        *,
        device: Device | None = None,
        seed: int | None = 0,
    ) -> None:
        self._prefix = ""
        self._has_pooler = bool(add_pooling_layer)
        self._build(config, device, seed, self._has_pooler)

    @classmethod
    def _inside(cls, parent: QDQBertPreTrainedModel, has_pooler: bool) -> QDQBertModel:
        """Return the base model that a model with a head holds: the same engine, under the prefix."""
        self = cls.__new__(cls)
        Module.__init__(self)
        self.config = parent.config
        self.name_or_path = parent.name_or_path
        self._engine = parent._engine
        self._prefix = f"{parent.base_model_prefix}."
        self._has_pooler = has_pooler
        self._build_children()
        return self

    @classmethod
    def _model_arguments(cls) -> tuple[str, ...]:
        return ("add_pooling_layer",)

    def _build_children(self) -> None:
        handles, prefix = self._engine.handles, self._prefix
        self.add_module("embeddings", QDQBertEmbeddings(handles, f"{prefix}embeddings", self.config))
        self.add_module("encoder", QDQBertEncoder(handles, f"{prefix}encoder", self.config))
        if self._has_pooler:
            self.add_module("pooler", QDQBertPooler(handles, f"{prefix}pooler"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Run the encoder.

        Parameters
        ----------
        input_ids : integers, shape (batch, length)
            In [0, vocab_size).
        attention_mask : integers or bool, shape (batch, length) or (batch, length, length)
            0 where nobody looks; a mask with three dimensions implies ``padding="compute"``.
        token_type_ids : integers, shape (batch, length)
            In [0, type_vocab_size); zeros if left out.
        position_ids : integers, shape (batch, length)
            In [0, max_position_embeddings); 0 .. length - 1 in each row if left out.
        head_mask : floats, shape (heads,) or (layers, heads)
            Factors on the probabilities of each head.
        inputs_embeds : floats, shape (batch, length, hidden)
            Instead of `input_ids`.
        encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache
            Of decoders; refused.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.

        Returns
        -------
        BaseModelOutputWithPoolingAndCrossAttentions or tuple
            As a tuple, the second entry is None if there is no pooler.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        UnsupportedError
            For arguments of decoders.
        """
        _refuse_decoder_arguments(encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache)
        wanted = _core.OUTPUT_LAST_HIDDEN_STATE | (_core.OUTPUT_POOLER_OUTPUT if self._has_pooler else 0)
        last, pooled, _, states, attentions = self._run(
            wanted,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return (last, pooled, *(value for value in (states, attentions) if value is not None))
        return outputs_of.BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=last, pooler_output=pooled, hidden_states=states, attentions=attentions
        )


class QDQBertForQuestionAnswering(QDQBertPreTrainedModel):
    """BERT that marks the span of text that answers a question.

    Parameters
    ----------
    config : QDQBertConfig
        With two labels: start and end.
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If ``config.num_labels`` is not 2, or another field cannot be.
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "question_answering"

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        if isinstance(config, QDQBertConfig) and config.num_labels != 2:
            raise ValueError(f"num_labels: question answering needs 2 (start and end), got {config.num_labels}")
        self._build(config, device, seed)

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=False))
        self.add_module("qa_outputs", Linear(self._engine.handles, "qa_outputs"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Score every token as start and as end of the answer.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        start_positions, end_positions : integers, shape (batch,) or (batch, 1)
            Labels; both or none.  Positions outside the sequence are not counted.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.

        Returns
        -------
        QuestionAnsweringModelOutput or tuple
            The loss is the mean of the two cross-entropies.  Positions that were not computed have logit 0.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        _, _, logits, states, attentions = self._run(
            _core.OUTPUT_LOGITS,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        start, end = np.ascontiguousarray(logits[..., 0]), np.ascontiguousarray(logits[..., 1])
        loss = None
        if start_positions is not None and end_positions is not None:
            first = _span_loss("start_positions", start, start_positions)
            last = _span_loss("end_positions", end, end_positions)
            loss = np.float32((first + last) / 2)
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return tuple(value for value in (loss, start, end, states, attentions) if value is not None)
        return outputs_of.QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=states, attentions=attentions
        )


class QDQBertForSequenceClassification(QDQBertPreTrainedModel):
    """BERT that gives a text one label, several labels, or a number.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "sequence_classification"

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        self._build(config, device, seed)

    @property
    def num_labels(self) -> int:
        """Number of logits of a text."""
        return self.config.num_labels

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=True))
        self.add_module("dropout", Dropout(self.config.hidden_dropout_prob))
        self.add_module("classifier", Linear(self._engine.handles, "classifier"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Classify each sequence.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        labels : numbers
            Classes, shape (batch,); floats of shape (batch,) for regression with one label; floats of shape
            (batch, num_labels) otherwise.  If ``config.problem_type`` is None it is chosen from `labels` and, as in
            the original, written into the configuration.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.

        Returns
        -------
        SequenceClassifierOutput or tuple

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        _, _, logits, states, attentions = self._run(
            _core.OUTPUT_LOGITS,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        loss = None if labels is None else self._loss(logits, as_labels("labels", labels))
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return tuple(value for value in (loss, logits, states, attentions) if value is not None)
        return outputs_of.SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=states, attentions=attentions
        )

    def _loss(self, logits: Array, labels: Array) -> np.float32:
        num_labels = self.num_labels
        problem_type = self.config.problem_type
        if problem_type is None:
            if num_labels == 1:
                problem_type = "regression"
            elif labels.dtype.kind in "iu":
                problem_type = "single_label_classification"
            else:
                problem_type = "multi_label_classification"
        if problem_type == "single_label_classification":
            classes = as_integers("labels", labels)
            assert classes is not None
            loss = _core.cross_entropy(logits, classes.reshape(-1), -100)
        else:
            values = as_floats("labels", labels)
            assert values is not None
            if problem_type == "regression" and num_labels == 1:
                loss = _core.mean_squared_error(logits.reshape(-1), values.reshape(-1))
            elif problem_type == "regression":
                loss = _core.mean_squared_error(logits, values)
            else:
                loss = _core.binary_cross_entropy(logits, values)
        self.config.problem_type = problem_type
        return np.float32(loss)


def _span_loss(argument: str, logits: Array, positions: Any) -> float:
    """Cross-entropy over positions; those outside [0, length) are clamped, and length itself is not counted."""
    labels = as_integers(argument, positions)
    assert labels is not None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != logits.shape[:1]:
        raise ShapeError(f"{argument}: expected ({logits.shape[0]},), got {labels.shape}")
    length = logits.shape[1]
    return _core.cross_entropy(logits, np.ascontiguousarray(labels.clip(0, length)), length)


def _refuse_decoder_arguments(
    encoder_hidden_states: Any, encoder_attention_mask: Any, past_key_values: Any, use_cache: bool | None
) -> None:
    for name, value in (
        ("encoder_hidden_states", encoder_hidden_states),
        ("encoder_attention_mask", encoder_attention_mask),
        ("past_key_values", past_key_values),
        ("use_cache", use_cache or None),
    ):
        if value is not None:
            raise UnsupportedError(f"{name}: only a decoder takes it, and the decoder is not built yet")


def _resolve_config(
    cls: type[QDQBertPreTrainedModel],
    config: QDQBertConfig | str | os.PathLike[str] | None,
    source: Source | None,
    kwargs: dict[str, Any],
) -> QDQBertConfig:
    """Return the configuration to build, with the fields in `kwargs` set over it; the caller's own is not changed."""
    if config is None:
        assert source is not None
        from qdqbert.serialization.folder import read_json

        path = source.require("config.json")
        where, fields = str(path), read_json(path)
    elif isinstance(config, QDQBertConfig):
        where, fields = "config", config.to_dict()
    else:
        where, fields = str(config), cls.config_class.from_pretrained(config).to_dict()
    try:
        resolved, unused = cls.config_class.from_dict(fields, return_unused_kwargs=True, **kwargs)  # type: ignore[misc]
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    if unused:
        raise TypeError(f"{cls.__name__}.from_pretrained() got unexpected arguments: {', '.join(sorted(unused))}")
    resolved.name_or_path = source.name if source else ""
    return resolved


def iterate_quantizers(model: Module) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, quantizer) of every quantizer of a model, in the order of `Module.named_modules`."""
    from qdqbert.nn import TensorQuantizer

    for name, module in model.named_modules():
        if isinstance(module, TensorQuantizer):
            yield name, module
