"""The server gives what the site lists to this machine's own pages, and nothing else to anyone."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvision_rl.errors import ConfigError
from pyvision_rl.view.lines import Problems
from pyvision_rl.view.notes import read_notes
from pyvision_rl.view.server import MAX_BODY, Server
from pyvision_rl.view.site import Options, open_site
from tests.unit.test_view_payloads import payload_of
from tests.view_example import write_run, write_study

TOKEN = "a-token-of-the-test"
NOTE = {"token": TOKEN, "step": 1, "task": "needle-4", "rollout": 0, "tags": ["hack"], "text": "?"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Served:
    run: Path
    server: Server

    @property
    def port(self) -> int:
        return self.server.server_port

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """Send a request as it is written: the path is not tidied."""
        wanted = {"Host": f"127.0.0.1:{self.port}"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if body is not None:
                wanted.setdefault("Content-Length", str(len(body)))
            for name, value in wanted.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def post(self, value: object, path: str = "/notes", **headers: str) -> Answer:
        given = {"Origin": f"http://127.0.0.1:{self.port}", "Content_Type": "application/json"}
        return self.ask(path, "POST", json.dumps(value).encode(), **(given | headers))


def serving(folder: Path) -> Iterator[Served]:
    server = Server(open_site(folder, Options(live=True, token=TOKEN)), TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Served(folder, server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    yield from serving(write_run(tmp_path_factory.mktemp("served") / "r", 1))


def test_page_and_data_are_served(served: Served) -> None:
    page = served.ask("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    told = payload_of(served.ask("/data/run.js").body, "run")
    assert (told["live"], told["notes_token"], told["name"]) == (True, TOKEN, "r")
    again = payload_of(served.ask(f"/data/run.js?after={told['version']}").body, "run")
    assert again["same"] is True
    [name] = told["steps"][0]["chunks"]
    assert served.ask(f"/data/{name}.js?any-stamp").status == 200


def test_pictures_are_served_and_last(served: Served) -> None:
    picture = next((served.run / "media").glob("*.png"))
    full = served.ask(f"/media/{picture.name}")
    assert full.body == picture.read_bytes()
    assert full.headers["Content-Type"] == "image/png"
    assert "immutable" in full.headers["Cache-Control"]
    small = served.ask(f"/thumbs/{picture.stem}.webp")
    assert small.body[8:12] == b"WEBP"
    assert served.ask("/data/index.js").headers["Cache-Control"] == "no-store"


def test_every_answer_forbids_what_a_page_does_not_need(served: Served) -> None:
    for path in ("/", "/data/run.js", "/nothing", "/media/x.png"):
        headers = served.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/../run.json",
        "/run.json",
        "/metrics.jsonl",
        "/data/../run.json",
        "/data/..%2frun.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/media/../../run.json",
        "/media/..%5c..%5crun.json",
        "/media/" + "0" * 64 + ".png",
        "/media/" + "0" * 64 + ".png/../../run.json",
        "/media/videos.json",
        "/data/run.js%00.html",
        "/data/c999999-00.js",
        "/data/c000001-99.js",
        "/data/x000001-00.js",
        "/site.py",
        "/web/",
        "/__init__.py",
        "/runs/../../x/seed-0/rl/",
        "/" + "a" * 5000,
        "/%ff%fe",
    ],
)
def test_only_what_is_listed_is_there(served: Served, path: str) -> None:
    answer = served.ask(path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert b"policy" not in answer.body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", ""])
@pytest.mark.parametrize("path", ["/", "/data/run.js", "/data/index.js"])
def test_a_name_that_was_rebound_gets_nothing(served: Served, host: str, path: str) -> None:
    answer = served.ask(path, Host=host)
    assert answer.status == 421
    assert TOKEN.encode() not in answer.body


def test_this_machine_may_be_called_localhost(served: Served) -> None:
    assert served.ask("/data/run.js", Host=f"localhost:{served.port}").status == 200


@pytest.mark.parametrize("where", ["cross-site", "same-site"])
def test_another_sites_page_cannot_load_the_data(served: Served, where: str) -> None:
    answer = served.ask("/data/run.js", Sec_Fetch_Site=where, Sec_Fetch_Dest="script")
    assert answer.status == 403
    assert TOKEN.encode() not in answer.body
    # A person who follows a link from there comes to the page.
    assert served.ask("/", Sec_Fetch_Site=where, Sec_Fetch_Dest="document").status == 200
    own = served.ask("/data/run.js", Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="script")
    assert own.status == 200


def test_a_note_is_kept_and_read_back(served: Served) -> None:
    answer = served.post(NOTE)
    assert answer.status == 200
    note = json.loads(answer.body)["note"]
    assert {name: note[name] for name in ("task", "tags", "text")} == {
        "task": "needle-4",
        "tags": ["hack"],
        "text": "?",
    }
    assert "token" not in note
    assert read_notes(served.run, Problems("notes"))[-1] == note
    assert payload_of(served.ask("/data/notes.js").body, "notes")["notes"][-1] == note


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_only_our_own_page_can_write(served: Served, headers: dict[str, str], status: int) -> None:
    before = read_notes(served.run, Problems("notes"))
    assert served.post(NOTE, **headers).status == status
    assert read_notes(served.run, Problems("notes")) == before


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", None, 7, "\ud800"])
def test_a_note_without_the_token_is_refused(served: Served, token: object) -> None:
    assert served.post({**NOTE, "token": token}).status == 403


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"},
        {"step": True},
        {"task": None},
        {"tags": "hack"},
        {"tags": [1]},
        {"tags": ["x"] * 21},
        {"text": "x" * 20_001},
        {"tags": [], "text": "  "},
    ],
)
def test_what_is_no_note_is_refused(served: Served, change: dict[str, object]) -> None:
    answer = served.post({**NOTE, **change})
    assert answer.status == 400
    assert json.loads(answer.body)["error"]


def test_too_much_is_not_even_read(served: Served) -> None:
    length = str(MAX_BODY + 1)
    given = {"Origin": f"http://127.0.0.1:{served.port}", "Content_Type": "application/json"}
    answer = served.ask("/notes", "POST", b"", Content_Length=length, **given)
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 20_000):
        assert served.ask("/notes", "POST", body, **given).status in (400, 403)
    assert served.ask("/").status == 200


def test_nothing_but_notes_can_be_written(served: Served) -> None:
    for path in ("/", "/data/run.js", "/../notes", "/runs/x/notes", "/notes/"):
        assert served.post(NOTE, path).status == 404
    for method in ("PUT", "DELETE", "PATCH"):
        assert served.ask("/notes", method, b"x").status == 501


def test_head_has_no_body(served: Served) -> None:
    answer = served.ask("/data/run.js", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100


def test_a_run_that_goes_away_ends_no_server(tmp_path: Path) -> None:
    for served in serving(write_run(tmp_path / "r", 1)):
        (served.run / "run.json").unlink()
        answer = served.ask("/data/run.js")
        assert answer.status == 500
        assert "run.json" in json.loads(answer.body)["error"]
        assert served.ask("/").status == 200


def test_a_study_serves_its_runs_and_takes_their_notes(tmp_path: Path) -> None:
    for served in serving(write_study(tmp_path / "s")):
        told = payload_of(served.ask("/data/run.js").body, "run")
        assert told["verb"] == "study"
        first = told["runs"][0]
        assert served.ask("/" + first["href"]).status == 200
        folder = "/" + first["href"].removesuffix("index.html")
        inner = payload_of(served.ask(folder + "data/run.js").body, "run")
        assert inner["home"] == "../../../../../index.html"
        assert served.post(NOTE, folder + "notes").status == 200
        assert (served.run / first["name"] / "notes.jsonl").exists()
        assert served.post(NOTE).status == 404


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    with pytest.raises(ConfigError, match=f"--port {served.port}"):
        Server(served.server.site, TOKEN, served.port)
