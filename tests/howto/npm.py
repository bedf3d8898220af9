"""The frontends of how-to pages that are built with npm and Vite."""

import json
import subprocess

from tests.howto.project import Project, run
from tests.processes import ROOT, missing, require

# What npm says without a network.
UNREACHABLE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "ETIMEDOUT")


def install(project: Project) -> None:
    """Install the page's packages from where npm gets them elsewhere, or from its cache."""
    npm = require("npm")
    settings = ["prefer-offline=true"]
    for name in ("cache", "cafile", "https-proxy", "registry"):
        value = subprocess.check_output([npm, "config", "get", name], text=True).strip()
        if value not in ("", "null", "undefined"):
            settings.append(f"{name}={value}")
    (project.folder / ".npmrc").write_text("\n".join(settings))
    pack = [argument.replace("~/dwsps", str(ROOT)) for argument in project.page.command("npm pack")]
    run(*pack, folder=project.folder)
    try:
        project.type("npm --prefix frontend install")
    except AssertionError as error:
        if any(sign in str(error) for sign in UNREACHABLE):
            missing("npm cannot reach its registry")
        raise


def start_vite(project: Project) -> None:
    """Start the dev server as `npm --prefix frontend run dev` does, but without npm, which it would outlive."""
    assert json.loads(project.page.files["frontend/package.json"])["scripts"]["dev"] == "vite"
    port = project.port(5173)
    vite = [require("node"), "frontend/node_modules/vite/bin/vite.js", "frontend"]
    project.start_program([*vite, "--port", str(port), "--strictPort"], port=port)
