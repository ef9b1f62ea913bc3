"""How much memory the components' processes take, and whether it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.kit import Kept

EVERY_SECONDS = 1.0
WARM_UP_SAMPLES = 10  # pools, caches and code are loaded by then


def resident_mb(pid: int) -> float | None:
    """None when there is no such process any more, or the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return round(int(sizes[0]) / 1024, 1) if sizes else None


@dataclass
class Memory:
    """Samples of every process that lived while `watch` ran, by component and process."""

    samples: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    async def watch(self, kept: Iterable[Kept]) -> None:
        """Until cancelled."""
        components = list(kept)
        while True:
            for one in components:
                size = resident_mb(one.pid)
                if size is not None:
                    self.samples.setdefault((one.component, one.pid), []).append(size)
            await asyncio.sleep(EVERY_SECONDS)

    def report(self) -> dict[str, dict[str, float]]:
        """By component, in MB: the most that any process took; of the one that lived longest, what it took once warm
        and at its end, and for how many seconds it was watched."""
        told: dict[str, dict[str, float]] = {}
        for component in sorted({component for component, _ in self.samples}):
            lives = [sizes for (name, _), sizes in self.samples.items() if name == component]
            longest = max(lives, key=len)
            warm = longest[min(WARM_UP_SAMPLES, len(longest) - 1)]
            told[component] = {
                "processes": len(lives),
                "max_mb": max(map(max, lives)),
                "warm_mb": warm,
                "end_mb": longest[-1],
                "growth_mb": round(longest[-1] - warm, 1),
                "seconds": round(len(longest) * EVERY_SECONDS),
            }
        return told
