"""A real nginx with the configuration of a how-to page."""

from tests.howto.project import Program, Project
from tests.processes import require

# What Debian's own nginx.conf has around the page's file, but in the test's folder, and one process in the foreground.
AROUND = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {site};
}}
"""


def start_nginx(project: Project, site: str, port: int) -> Program:
    """Start nginx with `site`, the text of a file of `conf.d` that listens on `port`; skip the test if there is no nginx."""
    nginx = require("nginx")
    file = project.folder / "site.conf"
    file.write_text(site.replace("/var/log/nginx/", f"{project.folder}/"))
    configuration = project.folder / "around.conf"
    configuration.write_text(AROUND.format(folder=project.folder, site=file))
    return project.start_program([nginx, "-c", str(configuration)], port=port)
