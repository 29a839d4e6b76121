"""Benchmark of the language model: decode and prefill tokens/s beside transformers, and what part of the machine is used.

It knows which cases are compared and how they are reported. How they are driven is told in `decoders`.
"""

from __future__ import annotations

import argparse
import re
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final

from build_engine.checkpoint import Checkpoint
from build_engine.weights import BITS_PER_WEIGHT
from loadtests.benchmarks import machine, results, shapes
from loadtests.benchmarks.decoders import SAMPLED, Decoder, ServingEngine, TransformersModel, Work
from loadtests.benchmarks.onnx_peer import OnnxPeer
from loadtests.benchmarks.peers import qwen3
from loadtests.benchmarks.peers.process import KINDS, Peer, command
from loadtests.benchmarks.rounds import CaseFailed, Rounds, run
from loadtests.benchmarks.tutorial_server import DTYPES

BASE: Final = "transformers"
PEER: Final = "onnxruntime-int4"
DECODED: Final = (1, 4, 8, 16)
MIX: Final = (31, 70, 150, 260)
"""Prompt lengths of the mixed prefill, 511 tokens together."""
DEFINITIONS: Final = {
    "decode_N": "tokens/s of N sequences together, from the step after the last first token, contexts of 64 tokens and "
    "more, greedy; ours through engine, scheduler, sampler and callbacks, transformers as bare forwards and argmax",
    "prefill_512": "512 prompt tokens / seconds until the first token is there",
    "prefill_mix": f"tokens of prompts of {', '.join(map(str, MIX))} tokens, all there before the first step, / seconds until "
    "all first tokens are there; transformers takes one prompt after the other",
    "ratio_to_transformers": "median over the rounds of ours / transformers' in the same round",
    "roofline_share": "median of tokens/s / the limit calibrated around that sample: weights and keys read at the measured "
    "bandwidth, or 2 operations per weight and token at the better of the measured bf16 and f32 matrix rates, whichever is "
    "less (integer products can pass the latter)",
    "transformers_dtype": "of transformers' weights and arithmetic: bfloat16, or float32 where the processor multiplies "
    "matrices of that faster (without AVX-512), unless --transformers says so",
    "overhead_us": "microseconds of a decode step outside the model's forward: scheduler, packing, sampler, delivery",
    PEER: "the same shape in ONNX Runtime, MatMulNBits with groups of 128 and int8 activations, GroupQueryAttention, int4 "
    "head; bare forwards and argmax, rows instead of an embedding",
    "genai": "OpenVINO GenAI's ContinuousBatchingPipeline step by step, the same weights as optimum-intel exports them "
    "(int4: symmetric, groups of 128, int8 head), everything else as GenAI chooses",
    "vllm": "vLLM for CPUs on all cores, compiled by inductor, engine step by step; int8: activations too, one scale a token; "
    "int4: groups of 128; bfloat16 head and keys in all three",
    "llamacpp": "llama.cpp, Q8_0 or Q4_0 with a Q8_0 head, bare llama_decode and argmax",
    "ratio_to_PEER": "median over the rounds of ours / the peer's in the same round, for peers of the same precision",
    "exact": "the same engine without int8 activations (load_language_model(quantise_activations=False))",
    "tiles, groups": "the same engine with matrix_tiles=on and =off; without either word it is auto, as served",
}
SCALE_DEFINITIONS: Final = {
    "cost_per_request_ms": "wall milliseconds / requests; all submitted at once to one engine of 10 slots with prefix reuse, "
    "64 random prompt tokens and 16 answer tokens each; small counts are repeated up to 1,000 requests per sample",
    "ratio_to_10": "median over the rounds of the cost per request / that of 10 requests in the same round",
    "resident_growth_mb": "peak resident memory after the run - before the first request",
}
_FORMS: Final[dict[str, dict[str, Any]]] = {
    "": {},
    "exact": {"quantise_activations": False},
    "tiles": {"matrix_tiles": "on"},
    "groups": {"matrix_tiles": "off"},
}
_SCALE: Final = (10, 100, 500, 2000)
_SLOTS: Final = 10
_ANSWERED: Final = 1000
"""Requests that a sample of --scale answers at least."""


@dataclass(frozen=True)
class Case:
    """One decoder, and the work that one of its tokens is."""

    decoder: Decoder
    work: Work
    equal: str = ""
    """Of a peer: our weights of the same precision."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0, or 1 when a case failed (then nothing is saved)."""
    options = _options(arguments)
    line = "python -m loadtests.bench language-model " + shlex.join(without_paths(arguments))
    name = "-".join(
        filter(None, ("language-model", options.shape, "scale" if options.scale else "", options.label))
    )
    try:
        figures = _scale(options) if options.scale else _compare(options)
    except CaseFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    definitions = SCALE_DEFINITIONS if options.scale else DEFINITIONS
    results.publish(results.Result(name, line.strip(), options.seed, definitions, figures), options.save)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench language-model", description=__doc__)
    parser.add_argument("--shape", choices=shapes.NAMES, default="demo")
    parser.add_argument(
        "--weights",
        default="int8,int4",
        help="comma-separated: bf16, int8, int4; the latter two also with -exact, all with -tiles and -groups",
    )
    parser.add_argument(
        "--onnxruntime",
        action="store_true",
        help="also measure ONNX Runtime's int4 (needs onnx, onnxruntime)",
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", type=_peer,
        help=f"also measure NAME, run by the interpreter PYTHON; may be repeated. NAME is one of {', '.join(KINDS)}. What each "
        "interpreter needs: docs/load-testing.md, Peers. Only bf16 peers need more than 16 GiB of memory",
    )  # fmt: skip
    parser.add_argument(
        "--transformers", choices=DTYPES, help="its dtype; the one with the better matrix rate by default"
    )
    parser.add_argument(
        "--no-transformers", action="store_true", help="leave transformers out, for memory; needs --peer"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="decode steps of a sample")
    parser.add_argument(
        "--sequences", default=",".join(map(str, DECODED)), help="decoded together, comma-separated"
    )
    parser.add_argument(
        "--scale", action="store_true", help="cost of a request from 10 to 2,000 of them, ours alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument(
        "--save", action="store_true", help="write loadtests/results/language-model-SHAPE.json"
    )
    parser.add_argument("--label", default="", help="appended to the name of the saved file")
    options = parser.parse_args(arguments)
    options.weights = options.weights.split(",")
    options.sequences = [int(count) for count in options.sequences.split(",")]
    forms = [f"{bits}-{form}" for bits in ("bf16", "int8", "int4") for form in _FORMS if form]
    known = {*BITS_PER_WEIGHT, *forms} - {"bf16-exact"}
    if unknown := sorted(set(options.weights) - known):
        parser.error(f"--weights {','.join(unknown)}: one of {', '.join(sorted(known))} is known")
    if options.no_transformers and not options.peer:
        parser.error("--no-transformers: nothing to compare with; give a --peer")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    if not all(1 <= count <= 16 for count in options.sequences):
        parser.error(f"--sequences {options.sequences}: 1 to 16 each")
    return options


def _peer(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"{name!r}: one of {', '.join(KINDS)} is known")
    if shutil.which(python) is None:
        raise argparse.ArgumentTypeError(
            f"{name}={python}: no such program; the interpreter of its environment is needed"
        )
    return name, python


def without_paths(arguments: Sequence[str]) -> list[str]:
    """The command line for a file that others read: where an interpreter lies says nothing to them."""
    return [
        re.sub(rf"^({'|'.join(KINDS)}|--peer=[^=]*)=.*", r"\1=PYTHON", argument) for argument in arguments
    ]


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    cases = _cases(options)
    try:
        return _figures(cases, options)
    finally:
        for case in cases.values():
            if isinstance(case.decoder, Peer):
                case.decoder.close()


def _figures(cases: Mapping[str, Case], options: argparse.Namespace) -> dict[str, Any]:
    print(f"{machine.describe().cpu}, {machine.describe().cores} cores; {options.rounds} rounds")
    print(f"{'':<14}{'case':<18}{'median':>9}{'min':>9}{'max':>9}{'ratio':>8}{'roofline':>10}")
    figures: dict[str, Any] = {}
    for case in cases.values():
        if isinstance(case.decoder, TransformersModel):
            figures["transformers_dtype"] = case.decoder.dtype
    for count in options.sequences:
        made = _measure(cases, options.rounds, partial(_decode, sequences=count, steps=options.steps))
        figures[f"decode_{count}"] = _report(f"decode_{count}", made, cases, count)
    for name, lengths in (("prefill_512", (512,)), ("prefill_mix", MIX)):
        made = _measure(cases, options.rounds, partial(_prefill, lengths=lengths))
        figures[name] = _report(name, made, cases, 0)
    figures["overhead_us"] = _overheads(cases, max(options.sequences), options.steps)
    figures["calibration"] = made.calibration()
    if options.peer:
        figures["peers"] = {
            name: case.decoder.versions for name, case in cases.items() if isinstance(case.decoder, Peer)
        }
    return figures


def _cases(options: argparse.Namespace) -> dict[str, Case]:
    """The decoders, transformers first unless left out, then peers; each has answered once."""
    directory = shapes.checkpoint(options.shape, options.seed)
    checkpoint = Checkpoint.read(directory)
    work = partial(Work.of, checkpoint.text, checkpoint.architecture.text_intermediate_size)
    cases = {}
    if not options.no_transformers:
        model = TransformersModel(directory, options.transformers or _faster_dtype())
        print(f"transformers in {model.dtype}")
        bits = 8 * model.value_bytes
        cases[BASE] = Case(model, work(bits, bits, model.value_bytes))
    for name, python in options.peer:
        kind = KINDS[name]
        plain = qwen3.write(directory, directory.with_name(f"{directory.name}-qwen3"))
        peer = Peer(command(kind, python, plain))
        cases[name] = Case(peer, work(kind.bits, kind.head_bits, kind.kv_bytes), kind.equal)
    for name in options.weights:
        weights, _, form = name.partition("-")
        engine = ServingEngine(shapes.engines(options.shape, weights, options.seed), **_FORMS[form])
        head = "int8" if weights == "int4" else weights
        cases[name] = Case(engine, work(BITS_PER_WEIGHT[weights], BITS_PER_WEIGHT[head], 1))
    if options.onnxruntime:
        cases[PEER] = Case(OnnxPeer(directory, options.seed), work(4.25, 4.25, 4))
    for case in cases.values():
        case.decoder.decode(max(options.sequences), 2)
        case.decoder.prefill((64,))
    return cases


def _faster_dtype() -> str:
    given = machine.calibrate()
    return "bfloat16" if given.bf16_flops > given.f32_flops else "float32"


def _measure(cases: Mapping[str, Case], rounds: int, once: Callable[[Decoder], float]) -> Rounds:
    return run({name: partial(once, case.decoder) for name, case in cases.items()}, rounds, machine.calibrate)


def _decode(decoder: Decoder, sequences: int, steps: int) -> float:
    return decoder.decode(sequences, steps)


def _prefill(decoder: Decoder, lengths: Sequence[int]) -> float:
    return decoder.prefill(lengths)


def _report(metric: str, made: Rounds, cases: Mapping[str, Case], sequences: int) -> dict[str, Any]:
    """Print a line per case, and ours beside each peer; the same as JSON. `sequences` 0: prefill."""
    base = next(iter(cases))
    figures = made.plain(base)
    for name, case in cases.items():
        limit = partial(case.work.decode_limit, sequences) if sequences else case.work.prefill_limit
        figures[name]["roofline_share"] = share = made.share(name, limit)
        ratio = "" if name == base else f"{made.ratio(name, base):.2f}"
        print(
            f"{metric:<14}{name:<18}{made.median(name):>9.1f}{min(made.values(name)):>9.1f}"
            f"{max(made.values(name)):>9.1f}{ratio:>8}{share or 0:>10.2f}",
            flush=True,
        )
    for peer, case in cases.items():
        for ours in (name for name in cases if case.equal and name.partition("-")[0] == case.equal):
            low, high = made.ratio_range(ours, peer)
            middle = made.ratio(ours, peer)
            figures[ours] |= {
                f"ratio_to_{peer}": middle,
                f"ratio_to_{peer}_min": low,
                f"ratio_to_{peer}_max": high,
            }
            print(f"{metric:<14}{ours} / {peer}: {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
    return figures


def _overheads(cases: Mapping[str, Case], sequences: int, steps: int) -> dict[str, Any]:
    """Per engine: what a step costs outside the forward, greedy and sampled with log-probabilities."""
    found: dict[str, Any] = {}
    for name, case in cases.items():
        if not isinstance(case.decoder, ServingEngine):
            continue
        greedy = [case.decoder.steps(sequences, 2 * steps) for _ in range(3)]
        sampled = [case.decoder.steps(sequences, 2 * steps, SAMPLED, log_probs=True) for _ in range(3)]
        found[name] = {
            "sequences": sequences,
            "greedy": median(made.overhead_us for made in greedy),
            "sampled_with_log_probs": median(made.overhead_us for made in sampled),
            "forward": median(made.forward_seconds / made.count * 1e6 for made in greedy),
        }
        print(f"{'overhead_us':<14}{name:<18}" + ", ".join(f"{k} {v:.0f}" for k, v in found[name].items()))
    return found


def _scale(options: argparse.Namespace) -> dict[str, Any]:
    weights = options.weights[0].partition("-")[0]
    engine = ServingEngine(shapes.engines(options.shape, weights, options.seed), _SLOTS, reuse=True)
    _cost(engine, _SLOTS)
    before = _resident_mb()
    made = run({str(count): partial(_cost, engine, count) for count in _SCALE}, options.rounds, None)
    base = str(_SCALE[0])
    print(f"{'requests':>9}{'ms each':>10}{'min':>9}{'max':>9}{'ratio to 10':>13}")
    for count in made.cases:
        values = made.values(count)
        print(
            f"{count:>9}{made.median(count):>10.2f}{min(values):>9.2f}{max(values):>9.2f}{made.ratio(count, base):>13.2f}"
        )
    return {
        "weights": weights,
        "cost_per_request_ms": made.plain(base),
        "resident_growth_mb": _resident_mb() - before,
        "kv_blocks_in_use_at_the_end": 0,  # ServingEngine.answer raises otherwise
    }


def _cost(engine: ServingEngine, count: int) -> float:
    """Milliseconds per request of `count` requests submitted at once, in fresh engines until _ANSWERED were answered."""
    repeats = max(1, _ANSWERED // count)
    seconds = 0.0
    for _ in range(repeats):
        requests = [engine.request(64, 16) for _ in range(count)]
        start = time.perf_counter()
        engine.answer(requests)
        seconds += time.perf_counter() - start
    return seconds / (repeats * count) * 1000


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
