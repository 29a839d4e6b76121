"""Trains the demo checkpoint from scratch: ``python -m build_engine.demo.train``.

Three stages, each resumable (stop with Ctrl-C, run the same command again):

1. draw     24,000 pictures into --work (about 5 minutes on two cores), once;
2. vision   the vision tower learns to read: digits under each visual token, kinds of pictures;
3. joint    the whole model learns to answer about pictures, pairs, clips and text.

The shipped weights took a little over an hour on two cores with AVX-512 BF16. Users need not run this.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from build_engine.demo import objective
from build_engine.demo.architecture import Sizes, make_model, save_checkpoint
from build_engine.demo.dialogue import corpus
from build_engine.demo.learner import Learner, Schedule
from build_engine.demo.objective import ChatBatch, Helpers, Losses, VisionBatch
from build_engine.demo.picture_cache import PictureCache, fill
from build_engine.demo.samples import Sample, Sampler
from build_engine.demo.sequence import Vocabulary
from build_engine.demo.tokenizer import make_tokenizer

SAVE_EVERY_S = 150.0
PROJECT_FROM = 0.85  # share of the joint stage after which numbers only come through DeepStack
HELPERS = ("helper", "read", "shown", "order")
HERE = Path(__file__).parent
Batch = TypeVar("Batch", VisionBatch, ChatBatch)


def vision_batches(cache: PictureCache, rng: Random, done: Callable[[], float]) -> Iterator[VisionBatch]:
    """Cheap crops first, then half crops, half whole pictures."""
    while True:
        if rng.random() < (0.85 if done() < 0.35 else 0.5):
            yield objective.crop_batch(cache, rng, 192)
        else:
            yield objective.picture_batch(cache, rng, 48)


def chat_batches(
    cache: PictureCache, vocabulary: Vocabulary, rng: Random, done: Callable[[], float]
) -> Iterator[ChatBatch]:
    """Singles, pairs and clips, sorted by length so that little is padding. Small: steps teach more than samples."""
    pad = vocabulary.control("endoftext")
    while True:
        sampler = Sampler(cache, vocabulary, rng, 0.7 if done() < 0.75 else 0.35)
        pending: list[list[Sample]] = []
        for _ in range(4):
            draw = rng.random()
            if draw < 0.30:
                samples, size = sampler.singles(40), 8
            elif draw < 0.62:
                samples, size = sampler.pairs(40), 5
            else:
                samples, size = sampler.clips(24), 4
            samples.sort(key=lambda sample: len(sample.sequence.ids))
            pending += [samples[i : i + size] for i in range(0, len(samples), size)]
        rng.shuffle(pending)
        for samples in pending:
            text = [sampler.text()] if rng.random() < 0.6 else []
            yield objective.chat_batch([*samples, *text], pad)


def ahead(batches: Iterator[Batch], depth: int = 4) -> Iterator[Batch]:
    """The same batches, made by a thread while the model learns."""
    waiting: queue.Queue[Batch] = queue.Queue(depth)

    def work() -> None:
        for batch in batches:
            waiting.put(batch)

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield waiting.get()


class Stage:
    """One stage: a learner that runs for some minutes, saves its state, and shows a progress bar."""

    def __init__(self, name: str, learner: Learner, minutes: float, state: Path) -> None:
        self.name, self.learner, self.minutes, self.state = name, learner, minutes, state
        if state.exists():
            learner.load(state)

    def done(self) -> float:
        """Share of the stage's time that is over, 0..1."""
        return min(1.0, self.learner.seconds / (self.minutes * 60))

    def run(
        self, batches: Iterator[Batch], losses: Callable[[Batch], Losses], save: Callable[[], None]
    ) -> None:
        """Learn until the time is over. `losses` gives "answer" and `HELPERS` to minimise; the rest is shown."""
        seen: dict[str, float] = {}
        saved = time.monotonic()
        with tqdm(total=100, desc=self.name, unit="%", bar_format="{l_bar}{bar}| {elapsed} {postfix}") as bar:
            while self.done() < 1:
                begun = time.monotonic()
                made = losses(next(batches))
                helper = sum((made[name] for name in HELPERS if name in made), torch.zeros(()))
                weight = 1.0 if "answer" not in made else 0.5 if self.done() < 0.8 else 0.2
                loss = made.get("answer", torch.zeros(())) + weight * helper
                self.learner.update(loss, self.done())
                self.learner.seconds += time.monotonic() - begun
                for name, value in made.items():
                    seen[name] = 0.97 * seen.get(name, float(value)) + 0.03 * float(value)
                bar.n = round(100 * self.done(), 1)
                bar.set_postfix(
                    {"step": self.learner.step, **{name: f"{value:.3f}" for name, value in seen.items()}}
                )
                if time.monotonic() - saved > SAVE_EVERY_S or self.done() >= 1:
                    self.learner.save(self.state)
                    save()
                    saved = time.monotonic()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m build_engine.demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=HERE / "checkpoint", help="Hugging Face directory (%(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("demo-training"), help="pictures and states (%(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=24_000, help="how many to draw (%(default)s)")
    parser.add_argument(
        "--vision-minutes", type=float, default=15, help="time of the stage vision (%(default)s)"
    )
    parser.add_argument(
        "--joint-minutes", type=float, default=60, help="time of the stage joint (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args(arguments)

    import transformers.models.qwen3_vl.modeling_qwen3_vl as modeling

    torch.manual_seed(options.seed)
    files = fill(options.work / "pictures", options.pictures)
    tokenizer = make_tokenizer(corpus())
    model: Any = make_model(tokenizer, Sizes(), options.seed)
    visual = model.model.visual
    helpers = Helpers(model.config.text_config.hidden_size, len(visual.deepstack_merger_list))
    objective.one_attention_per_size(modeling)
    cache, rng = PictureCache(files), Random(options.seed)

    def seen(batch: VisionBatch) -> Losses:
        out = visual(batch.patches, grid_thw=batch.grids)
        return {
            "helper": helpers.loss([out.pooler_output, *out.deepstack_features], batch.cells, batch.kinds)
        }

    modules = {"visual": visual, "helpers": helpers}
    vision = Stage(
        "vision",
        Learner(modules, [("", 1.5e-3)], Schedule(0.6)),
        options.vision_minutes,
        options.work / "vision.pt",
    )
    vision.run(ahead(vision_batches(cache, rng, vision.done)), seen, lambda: None)

    vocabulary = Vocabulary(tokenizer)
    end_id = vocabulary.control("vision_end")
    digit_ids = torch.tensor([vocabulary.encode(str(digit))[0] for digit in range(10)])
    with torch.no_grad():  # the vision stage's float32 weights, not their bfloat16 copies
        model.float()
        helpers.float()
        for weight, master in zip(vision.learner.weights, vision.learner.masters, strict=True):
            weight.copy_(master)
    rates = [("model.model.visual", 5e-4), ("helpers", 5e-4), ("", 1.2e-3)]
    joint = Stage(
        "joint",
        Learner({"model": model, "helpers": helpers}, rates, Schedule(0.55)),
        options.joint_minutes,
        options.work / "joint.pt",
    )
    taken_out: list[torch.Tensor] = []

    def answered(batch: ChatBatch) -> Losses:
        if joint.done() > PROJECT_FROM and not taken_out:
            taken_out.append(helpers.without_numbers())
        projection = taken_out[0] if taken_out else None
        return objective.chat_losses(model, helpers, batch, digit_ids, end_id, projection)

    def save() -> None:
        weights = dict(zip(joint.learner.names, joint.learner.masters, strict=True))
        state = {
            name.removeprefix("model."): w.detach()
            for name, w in weights.items()
            if name.startswith("model.")
        }
        for name in [name for name in state if taken_out and ".visual.merger.linear_fc2." in name]:
            state[name] = taken_out[0] @ state[name]
        save_checkpoint(model, tokenizer, options.output, state)

    joint.run(ahead(chat_batches(cache, vocabulary, rng, joint.done)), answered, save)


if __name__ == "__main__":
    main()
