"""A picture of the demo page: two windows on one server.

It makes `docs/images/page.png`:

    python -m tests.picture [FILE]
"""

import sys
import tempfile
from base64 import b64encode
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect

from tests.browser import Window, chromium
from tests.processes import ROOT, Server, ServerFactory, base_environment, manage

PICTURE = ROOT / "docs" / "images" / "page.png"

WIDTH, HEIGHT = 640, 800  # CSS pixels of a window: half of a small laptop's screen
SCALE = 1.2  # sharp where a README shows it, and a file of less than 300 kB

# Two windows beside each other on a desk.
DESK = """<!doctype html>
<style>
  body {{ margin: 0; display: flex; gap: 20px; width: max-content; padding: 20px; background: #c9cfc6 }}
  figure {{ margin: 0; border-radius: 8px; overflow: hidden; box-shadow: 0 0 0 1px #0003 }}
  figcaption {{ padding: 9px 12px; font: 12px/1 "DejaVu Sans Mono", monospace; background: #e4e2d8; color: #50564f }}
  figure + figure figcaption {{ background: #262d27; color: #9ba59b }}
  img {{ display: block; width: {width}px; height: {height}px }}
</style>
{windows}"""


def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as name, Server.all_closed() as servers:
        folder = Path(name)
        database = folder / "db.sqlite3"
        manage("migrate", "--verbosity", "0", env=base_environment(database))
        # The address of `make run`, so that port must be free.
        server = ServerFactory(servers, folder=folder, database=database)("daphne", port=8000)
        picture = take(server)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture)
    print(f"{file}: {len(picture) / 1000:.0f} kB")


def take(server: Server) -> bytes:
    with chromium() as browser:
        size = ViewportSize(width=WIDTH, height=HEIGHT)
        light, dark = (
            Window(
                browser.new_page(
                    viewport=size,
                    color_scheme=scheme,
                    device_scale_factor=SCALE,
                    reduced_motion="reduce",
                )
            ).open(server.http_url)
            for scheme in ("light", "dark")
        )
        light.subscribe("news")
        dark.subscribe("news", "sport")
        light.publish("sport.goal", '{"goal": "1:0", "minute": 73}')
        light.publish("news.fr", '"Bonjour"')
        dark.publish("news.uk.london", '{"bridge": "closed", "until": "18:00"}')
        dark.find("#cut").click()
        light.publish("news.uk", '"Hello"')
        dark.find("#cut").click()
        dark.expect_count("news", 3)
        dark.expect_count("sport", 1)
        light.expect_count("news", 3)
        expect(dark.rows("message")).to_have_count(4)
        for window in (light, dark):
            window.find(":focus").blur()
            window.page.evaluate("scrollTo(0, 0)")
            window.page.mouse.move(0, 0)  # from the button it has pressed
        shots = [window.page.screenshot() for window in (light, dark)]
        return lay_out(browser.new_page(device_scale_factor=SCALE), shots, server.http_url)


def lay_out(desk: Page, shots: list[bytes], url: str) -> bytes:
    windows = "".join(
        f'<figure><figcaption>{url}</figcaption><img src="data:image/png;base64,{b64encode(shot).decode()}"></figure>'
        for shot in shots
    )
    desk.set_viewport_size(ViewportSize(width=2 * WIDTH + 60, height=HEIGHT))
    desk.set_content(DESK.format(width=WIDTH, height=HEIGHT, windows=windows))
    return desk.locator("body").screenshot()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
