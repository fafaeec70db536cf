"""Draw the README's pictures of the console: a real Chromium before a real console, over a fleet that is simulated.

    python benchmarks/console_pictures.py [--out docs/pictures]

The boards' names and models say that they are simulated. Needs chromium and the package playwright.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.collector.store_reading import StoredReader  # noqa: E402
from agent.web import ConsoleSettings, start  # noqa: E402
from benchmarks.simulated_console_board import FLEET, KINDS  # noqa: E402
from benchmarks.simulated_console_fleet import fleet_messages, store  # noqa: E402

BOARDS = 1200
WIDTH = 1280
MAX_BYTES = 150_000
FILTER = "ram>=4GiB and status!=offline"
#: name: path below the fleet, height in pixels, what must be there first
PICTURES = {
    "console-boards": (f"boards?sort=seen&order=desc&group=line-2&filter={quote(FILTER)}", 760, "tbody tr"),
    "console-board": ("boards/sim-pi5-000", 1120, "#series svg"),
    "console-class": (f"classes/{KINDS[2].fingerprint}", 1000, "figure.trade svg"),
    "console-rollout": ("rollouts/r7f3a91c2", 1010, ".waves"),
}


def draw(out: Path) -> list[Path]:
    """Draw all pictures. Returns: their files. Raises: SystemExit: no browser, or one is too large."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    made = []
    with tempfile.TemporaryDirectory(prefix="boardfit-console-") as folder, sync_playwright() as playwright:
        url = f"sqlite:///{folder}/fleet.sqlite"
        store(url, fleet_messages(BOARDS))
        opened = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--headless", "--disable-gpu", "--no-first-run"]
        )
        with StoredReader(url) as reader, start(reader, ConsoleSettings(), "127.0.0.1:0") as served:
            for name, (path, height, there) in PICTURES.items():
                page = opened.new_page(
                    viewport={"width": WIDTH, "height": height}, color_scheme="light", reduced_motion="reduce"
                )
                page.goto(f"{served.url}/fleets/{FLEET}/{path}")
                page.wait_for_selector(there)
                page.wait_for_function("document.getElementById('live').textContent === 'live'")
                made.append(_kept(out / f"{name}.png", page.screenshot()))
                page.close()
        opened.close()
    return made


def _kept(path: Path, picture: bytes) -> Path:
    """Write a picture with the 256 colours that it has most of. Raises: SystemExit: it is too large."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    counted = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in counted for part in colour])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MAX_BYTES}")
    return path


def main() -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(description="the README's pictures of the console, over a simulated fleet")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="default: %(default)s")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for path in draw(options.out):
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
