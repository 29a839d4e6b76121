"""The contract between the models: every tensor by name, data type and shape, in one place.

`contract` gives it for a target; `CONTRACT` is that of the target openvino. The two differ in what NVIDIA's C++ backend does
its own way: the data type of the prompt embedding table, a leading batch dimension on outputs, performance counters that come
all together or not at all, and adapters (LoRA).

Shapes use -1 for a free dimension. All models but `qwen3_vl` and `ensemble` have `max_batch_size` > 0 in spirit,
but every tensor here carries its leading batch dimension of 1 explicitly, so one table serves all of them.

Symbols: L prompt tokens after expansion; V visual tokens; N patches (N = V * merge_size^2); M media segments
(an image, or one temporal group of frames of a video); D DeepStack levels; H hidden size; K values of a patch
(channels * temporal_patch_size * patch_size^2); P positions (max_seq_len); R rotary dimensions (head_dim).

Visual token i (in prompt order over all images and frames) owns the rows (1+D)*i .. (1+D)*i+D of the prompt
embedding table: the merged feature, then DeepStack level 0..D-1. Its id in `input_ids` is vocab_size + (1+D)*i.
The language model reads the first row as the embedding, and adds row 1+k after decoder layer k.

A tensor is added here first; `pbtxt` renders it, and the tests point to what is left to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

ENTRY: Final = "qwen3_vl"
ENSEMBLE: Final = "ensemble"
PREPROCESSING: Final = "preprocessing"
VISION_ENCODER: Final = "vision_encoder"
LANGUAGE_MODEL: Final = "tensorrt_llm"
MODELS: Final = (ENTRY, ENSEMBLE, PREPROCESSING, VISION_ENCODER, LANGUAGE_MODEL)

OPENVINO: Final = "openvino"
TENSORRT_LLM: Final = "tensorrt-llm"
TENSORRT_LLM_PYTORCH: Final = "tensorrt-llm-pytorch"
"""No target of a build: the second runtime for the language model, which encodes pictures itself."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model: Triton data type without the ``TYPE_`` prefix, shape with -1 for free dimensions."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """What a model takes and gives."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    decoupled: bool = False

    def input(self, name: str) -> Tensor:
        """The input called `name`; KeyError if there is none."""
        return _by_name(self.inputs, name)

    def output(self, name: str) -> Tensor:
        """The output called `name`; KeyError if there is none."""
        return _by_name(self.outputs, name)


def _by_name(tensors: tuple[Tensor, ...], name: str) -> Tensor:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise KeyError(name)


# --- what the client sends: OpenAI chat JSON whose {"type":"image"} and {"type":"video"} parts stand, in order,
# --- for the items of `images` and `videos` (encoded files as they are: JPEG, PNG, WebP, GIF, BMP; mp4, webm).
REQUEST: Final = (
    Tensor("messages", "STRING", (1,)),
    Tensor("images", "STRING", (-1,), optional=True),
    Tensor("videos", "STRING", (-1,), optional=True),
)

# --- what preprocessing hands to the vision encoder
VISION_REQUEST: Final = (
    Tensor(
        "pixel_patches", "UINT8", (1, -1, -1)
    ),  # [1,N,K] packed, in prompt order, HF's patch and merge order
    Tensor("grid_thw", "INT32", (1, -1, 3)),  # [1,items,3] one row per image or video, in patches
    Tensor("media_digest", "UINT64", (1, -1, 4)),  # [1,items,4] keyed 256-bit digest of the item's pixels
)

PROMPT_EMBEDDING_TABLE: Final = Tensor("prompt_embedding_table", "FP32", (1, -1, -1))  # [1,(1+D)*max(V,1),H]

# --- what preprocessing hands to the language model: names and data types of the C++ tensorrtllm backend
PROMPT: Final = (
    Tensor("input_ids", "INT32", (1, -1)),
    Tensor("input_lengths", "INT32", (1, 1)),
    Tensor("request_output_len", "INT32", (1, 1)),
    Tensor("end_id", "INT32", (1, 1)),
    Tensor("pad_id", "INT32", (1, 1)),
    Tensor("prompt_table_extra_ids", "UINT64", (1, -1)),  # 0 for text, else first word of the item's digest
    Tensor(
        "mrope_rotary_cos_sin", "FP32", (1, -1)
    ),  # [1,P*R] as [position][R/2][cos,sin]; openvino: P or fewer
    Tensor("mrope_position_deltas", "INT64", (1, 1)),
    Tensor("streaming", "BOOL", (1, 1)),
    Tensor("exclude_input_in_output", "BOOL", (1, 1)),
    Tensor("return_log_probs", "BOOL", (1, 1)),
    Tensor("return_num_input_tokens", "BOOL", (1, 1)),
    Tensor("runtime_top_k", "INT32", (1, 1)),  # 1 is greedy; 0 is "all"
    Tensor("runtime_top_p", "FP32", (1, 1)),
    Tensor("temperature", "FP32", (1, 1)),
    Tensor("repetition_penalty", "FP32", (1, 1)),
    Tensor("presence_penalty", "FP32", (1, 1)),
    Tensor("frequency_penalty", "FP32", (1, 1)),
    Tensor("seed", "UINT64", (1, 1)),
)
# min_p is a sampling input of newer C++ backends only; the openvino language model reads it from the request
# parameters, which reach every step of an ensemble.

GENERATED: Final = (
    Tensor("output_ids", "INT32", (-1, -1)),  # [beams=1, new tokens]
    Tensor("sequence_length", "INT32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("num_input_tokens", "INT32", (1,)),
    Tensor("kv_cache_reused_blocks", "INT32", (1,)),
)

# --- only on the target tensorrt-llm -------------------------------------------------------------------------
# Names, data types and shapes as NVIDIA's template declares them (TensorRT-LLM triton_backend/all_models/inflight_batcher_llm/
# tensorrt_llm/config.pbtxt) and as model_instance_state.cc fills them.

RETURN_PERF_METRICS: Final = Tensor("return_perf_metrics", "BOOL", (1, 1))
"""Asks for `kv_cache_reused_blocks`, and with it for all of `PERFORMANCE`."""

PERFORMANCE: Final = (
    Tensor("kv_cache_alloc_new_blocks", "INT32", (1, 1)),
    Tensor("kv_cache_alloc_total_blocks", "INT32", (1, 1)),
    Tensor("arrival_time_ns", "INT64", (1, 1)),
    Tensor("first_scheduled_time_ns", "INT64", (1, 1)),
    Tensor("first_token_time_ns", "INT64", (1, 1)),
    Tensor("last_token_time_ns", "INT64", (1, 1)),
    Tensor("acceptance_rate", "FP32", (1, 1)),
    Tensor("total_accepted_draft_tokens", "INT32", (1, 1)),
    Tensor("total_draft_tokens", "INT32", (1, 1)),
)
"""What the C++ backend sends along, asked or not. An ensemble fails a response with an output that it has no tensor for, and
is not loaded with a tensor that nobody takes, so all of them are its outputs too; nothing of ours reads them."""

LORA_TASK_ID: Final = Tensor("lora_task_id", "UINT64", (1, 1))
LORA_CONFIG: Final = Tensor("lora_config", "INT32", (1, -1, 3))


def lora_weights(dtype: str) -> Tensor:
    """The weights of an adapter, in the engine's own data type: the backend refuses any other."""
    return Tensor("lora_weights", dtype, (1, -1, -1))


# --- what the client receives. A chunk may leave out every output but `text`; the last one has them all.
REPLY: Final = (
    Tensor("text", "STRING", (1,)),  # the new piece of the answer, whole characters only
    Tensor("token_ids", "INT32", (-1,)),  # tokens behind this piece
    Tensor("token_logprobs", "FP32", (-1,)),  # natural log, present when `logprobs` is true
    Tensor("finish_reason", "STRING", (1,)),  # "" until the end; then stop | length
    Tensor("confidence", "FP32", (1,)),  # geometric mean of the token probabilities, 0..1
    Tensor("prompt_tokens", "INT32", (1,)),
    Tensor("completion_tokens", "INT32", (1,)),
    Tensor("cached_tokens", "INT32", (1,)),  # prompt tokens whose KV blocks were reused
    Tensor("time_to_first_token_ms", "FP32", (1,)),
    Tensor("total_ms", "FP32", (1,)),
)

# --- the optional model `ocr`, beside the ensemble: n lines of text in a picture of H x W pixels
OCR: Final = Model(
    "ocr",
    (Tensor("image", "UINT8", (1, -1, -1, 3)),),  # [1,H,W,3] RGB
    (
        Tensor("boxes", "FP32", (1, -1, 4, 2)),  # [1,n,4,2] corners, x and y in pixels
        Tensor("texts", "STRING", (1, -1)),  # [1,n]
        Tensor("scores", "FP32", (1, -1)),  # [1,n] 0..1
    ),
)

STOP: Final = Tensor("stop", "BOOL", (1, 1), optional=True)


def _optional(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(replace(tensor, optional=True) for tensor in tensors)


def contract(target: str, table_dtype: str) -> dict[str, Model]:
    """The models of a target by name.

    Args:
        target: "openvino" or "tensorrt-llm", as in the manifest; or "tensorrt-llm-pytorch", which has one step only.
        table_dtype: data type of the prompt embedding table, as in the manifest.
    """
    entry = Model(ENTRY, REQUEST, REPLY, decoupled=True)
    if target == TENSORRT_LLM_PYTORCH:
        return {
            ENTRY: entry,
            ENSEMBLE: Model(ENSEMBLE, REQUEST, GENERATED, decoupled=True),
            LANGUAGE_MODEL: Model(LANGUAGE_MODEL, (*_optional(REQUEST), STOP), GENERATED, decoupled=True),
        }
    table = replace(PROMPT_EMBEDDING_TABLE, dtype=table_dtype)
    prompt: tuple[Tensor, ...] = PROMPT
    generated: tuple[Tensor, ...] = GENERATED
    adapter: tuple[Tensor, ...] = ()
    if target == TENSORRT_LLM:
        prompt = (*PROMPT, RETURN_PERF_METRICS)
        generated = (*(replace(tensor, shape=(1, *tensor.shape)) for tensor in GENERATED), *PERFORMANCE)
        adapter = _optional((LORA_TASK_ID, lora_weights(table_dtype), LORA_CONFIG))
    # A stop request (`stop` = true under the id of the request to stop) carries no prompt, hence optional.
    language_inputs = (*_optional((*prompt, table)), *adapter, STOP)
    return {
        ENTRY: entry,
        ENSEMBLE: Model(ENSEMBLE, (*REQUEST, *adapter), generated, decoupled=True),
        PREPROCESSING: Model(PREPROCESSING, REQUEST, VISION_REQUEST + prompt),
        VISION_ENCODER: Model(VISION_ENCODER, VISION_REQUEST, (table,)),
        LANGUAGE_MODEL: Model(LANGUAGE_MODEL, language_inputs, generated, decoupled=True),
    }


CONTRACT: Final = contract(OPENVINO, "FP32")

STEPS: Final = (PREPROCESSING, VISION_ENCODER, LANGUAGE_MODEL)
"""The steps of the ensemble, those of them that a target has; a tensor flows from the step that gives it to every later step
that takes it.
"""
