"""`python -m gateway calibrate`: fit confidence to a labelled set, say how good it is, draw its curve.

It reads one JSON object a line: {"right": true, "scene": "after_sales", "signals": {"token_probability": ...}}. Figures are
cross-validated: every answer's confidence comes from a model that has not seen it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from gateway.confidence import measures
from gateway.confidence.calibration import SIGNALS, Calibration
from gateway.confidence.curve import reliability
from gateway.errors import GatewayError, InvalidInput
from gateway.records import Signals

_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """The signals of one answer, and whether it was right."""

    signals: Signals
    right: bool
    scene: str


def read(path: Path) -> list[Labelled]:
    """A labelled set; InvalidInput names the line that is not as it should be."""
    labelled = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                values = json.loads(line)
                signals = Signals(**{name: float(values["signals"][name]) for name in SIGNALS})
                if not isinstance(values["right"], bool):
                    raise ValueError("right: true or false")
                labelled.append(Labelled(signals, values["right"], str(values.get("scene", ""))))
            except (KeyError, TypeError, ValueError) as error:
                want = f'{{"right": true, "scene": "...", "signals": {{{", ".join(SIGNALS)}}}}}'
                raise InvalidInput(f"{path.name}, line {number}", repr(error), want) from error
    if not labelled:
        raise InvalidInput(path.name, "no lines", "one JSON object a line")
    return labelled


def held_out(labelled: Sequence[Labelled], penalty: float, seed: int = 0) -> list[float]:
    """Every answer's confidence by a model fitted to the other four fifths."""
    groups = list(range(len(labelled)))
    Random(seed).shuffle(groups)
    confidence = [0.0] * len(labelled)
    for fold in range(_FOLDS):
        inside = [labelled[index] for place, index in enumerate(groups) if place % _FOLDS != fold]
        model = Calibration.fit([one.signals for one in inside], [one.right for one in inside], penalty)
        for index in groups[fold::_FOLDS]:
            confidence[index] = model.confidence(labelled[index].signals)
    return confidence


def main(arguments: list[str]) -> int:
    """Run the command; its last line of output is JSON."""
    options = _options(arguments)
    try:
        labelled = read(options.labelled)
        confidence = held_out(labelled, options.penalty)
        right = [one.right for one in labelled]
        origin = (
            options.origin
            or f"{len(labelled)} answers of {options.labelled.name}, {datetime.now(UTC):%Y-%m-%d}"
        )
        model = Calibration.fit([one.signals for one in labelled], right, options.penalty, origin)
    except (GatewayError, OSError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 1
    model.write(options.output)
    curve = options.curve or options.output.with_suffix(".svg")
    curve.write_text(
        reliability(measures.bins(confidence, right), "Reliability (cross-validated)"), encoding="utf-8"
    )
    print(f"{len(right)} answers, {sum(right)} right; weights:")
    for name, weight in zip(("intercept", *SIGNALS), (model.intercept, *model.weights), strict=True):
        print(f"  {name:<18} {weight:8.3f}")
    figures = {
        "answers": len(right),
        "right": sum(right),
        "brier": round(measures.brier(confidence, right), 4),
        "brier_of_base_rate": round(measures.brier([sum(right) / len(right)] * len(right), right), 4),
        "ece": round(measures.calibration_error(confidence, right), 4),
        "auc": round(measures.auc(confidence, right), 4),
        "thresholds": _thresholds(labelled, confidence, options.precision),
        "output": str(options.output),
        "curve": str(curve),
    }
    print(json.dumps(figures, ensure_ascii=False))
    return 0


def _thresholds(
    labelled: Sequence[Labelled], confidence: Sequence[float], precisions: Sequence[float]
) -> dict[str, dict[str, float | None]]:
    """For every scene and all together, printed as a table too."""
    print(f"\n{'scene':<20} {'precision':>9} {'threshold':>9} {'reached':>8} {'answered':>8}")
    table: dict[str, dict[str, float | None]] = {}
    for scene in ["all", *sorted({one.scene for one in labelled} - {""})]:
        pairs = [
            (c, one.right) for c, one in zip(confidence, labelled, strict=True) if scene in ("all", one.scene)
        ]
        sure, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for precision in precisions:
            choice = measures.choose(sure, right, precision)
            table.setdefault(scene, {})[str(precision)] = (
                None if choice is None else round(choice.threshold, 4)
            )
            row = "no threshold reaches it" if choice is None else (
                f"{choice.threshold:9.3f} {choice.precision:8.3f} {choice.coverage:8.1%}"
            )  # fmt: skip
            print(f"{scene:<20} {precision:9.2f} {row}")
    return table


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway calibrate", description=__doc__)
    parser.add_argument(
        "labelled", type=Path, help="JSON lines; `python -m gateway export --labelled` makes them"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON that a profile's `calibration` can name"
    )
    parser.add_argument("--curve", type=Path, help="SVG of the reliability curve (default: beside --output)")
    parser.add_argument(
        "--precision", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.99], help="shares to reach"
    )
    parser.add_argument("--penalty", type=float, default=1.0, help="how strongly the prior holds (default 1)")
    parser.add_argument("--origin", default="", help="what the set is; written into the file")
    return parser.parse_args(arguments)
