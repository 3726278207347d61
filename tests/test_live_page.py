"""The page of the control room: what it shows, to whom, and that it stops nothing."""

import contextlib
import dataclasses
import http.client
import itertools
import json
import re
import socket
import threading
import time
import urllib.parse

import numpy as np
import pytest
from test_follow import _start
from test_monitor import SETTINGS, _lines, _table, alarm_file as alarm_file, exported

from fmalign_jax import monitor
from fmalign_jax.alarm import csv_stream, page_server, watchdog
from fmalign_jax.alarm.csv_stream import Row
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.live_page import SHOWN_S, LivePage
from fmalign_jax.alarm.page_server import PageServer

TOKEN = "0123456789abcdef-token"
FILES = ("/page.css", "/page.js", "/words.json", "/icon.svg")


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def page(clock):
    return LivePage(SETTINGS, now=clock)


def _shown(page, clock):
    clock.now_s += 1  # the text is half a second old at most
    return json.loads(page.text())


def _address(server):
    return server.server_address[:2]


def _get(server, path, method="GET", **headers):
    """The status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection(*_address(server), timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.fixture
def serve():
    """Starts servers of a page; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(page, token=None, host="127.0.0.1"):
            data = getattr(page, "text", page)
            server = stack.enter_context(PageServer(host, 0, token, data))
            server.start()
            return server

        yield start


# What it shows


def test_a_chart_keeps_least_and_greatest_of_each_second(page, clock):
    rng = np.random.default_rng(0)
    time_s = 100 + np.arange(40) / 4
    values = rng.normal(9000, 500, (40, 3))
    for t, row in zip(time_s.tolist(), values.tolist(), strict=True):
        page.take_row(Row(t, tuple(row)))
    shown = _shown(page, clock)
    assert [span[0] for span in shown["spans"]] == list(range(100, 110))
    by_second = values.reshape(10, 4, 3)
    for found, expected in (("low", by_second.min(1)), ("high", by_second.max(1))):
        side = 1 if found == "low" else 2
        got = [span[side] for span in shown["spans"]]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert shown["row"] == {"time_s": time_s[-1], "values": values[-1].tolist()}
    assert shown["rows"] == 40
    assert shown["row_age_s"] == 1.0
    page.take_row(Row(50.0, (1.0, 2.0, 3.0)))  # the clock was set back
    assert _shown(page, clock)["spans"] == [[50.0, [1, 2, 3], [1, 2, 3]]]


def _cells(tick, on, probability=0.25):
    visible = [f"{tick + after:.1f}" for after in (200, 230, 250)] if on else []
    return [f"{tick:.1f}", f"{probability:.6f}", "3", ("normal", "ALARM")[on], *visible]


def test_history_holds_changes_and_states_newest_first(page, clock):
    written = [_cells(t, on=4 <= t < 7) for t in range(10)]
    for cells in written[:6]:
        page.write(cells)
    page.write(["5.5", "", "", watchdog.FROZEN])
    for cells in written[6:]:
        page.write(cells)
    shown = _shown(page, clock)
    frozen = ["5.5", "", "", "FROZEN"]
    assert shown["events"] == [written[7], frozen, written[4]]
    assert shown["reading"] == written[-1]
    assert shown["visible_s"] == []
    assert [on for _, _, on in shown["readings"]] == [4 <= t < 7 for t in range(10)]


def test_an_alarm_that_was_on_before_is_shown(page, clock):
    page.write(_cells(9, on=True))
    shown = _shown(page, clock)
    assert shown["visible_s"] == [209.0, 239.0, 259.0]
    assert len(shown["events"]) == 1


def test_what_was_logged_before_is_remembered_and_nonsense_is_not(page, clock):
    sound = [_cells(t, on=t > 1) for t in range(4)]
    page.remember(
        [
            ["time", "probability", "code", "alarm"],
            sound[0],
            ["99.0", "0.5"],
            [],
            ["nan", "0.5", "1", "normal"],
            ["1.0", "x", "1", "normal"],
            ["1.0", "0.5", "1", "ALARM", "=1+1"],
            *sound[1:],
            ["3.5", "", "", "NO DATA"],
        ]
    )
    shown = _shown(page, clock)
    assert [time_s for time_s, _, _ in shown["readings"]] == [0, 1, 2, 3]
    assert [event[3] for event in shown["events"]] == ["NO DATA", "ALARM"]
    assert shown["reading"] == sound[-1]
    assert shown["health"] is None  # it was without data then, not now


def test_a_probability_that_is_none_makes_no_wrong_json(page, clock):
    page.write(["1.0", "nan", "", "normal"])
    assert _shown(page, clock)["readings"] == [[1.0, None, False]]


def test_the_state_of_the_input_is_the_watchdogs(alarm_file, clock):
    page = LivePage(SETTINGS, now=clock)
    own = Monitor(exported.load(alarm_file), live=True, on_row=page.take_row)
    dog = watchdog.Watchdog(own, no_data_after_s=10.0, frozen_after_s=5.0, now=clock)
    for half in range(20):
        own.feed(f"{half / 2 + 0.25},1,2,3")
    own.feed("garbage")
    dog.look()
    page.look(own, dog)
    shown = _shown(page, clock)
    assert shown["health"] == "FROZEN"
    assert sum(shown["left_out"].values()) == 1
    assert shown["looked_age_s"] == 1.0
    clock.now_s = 30.0
    dog.look()
    page.look(own, dog)
    shown = _shown(page, clock)
    assert shown["health"] == "NO DATA"
    assert shown["row_age_s"] == 31.0
    assert shown["rows"] == own.rows == 19  # the last is not yet given out
    own.feed("10.25,4,5,6")
    own.feed("10.75,4,5,6")
    dog.look()
    page.look(own, dog)
    assert _shown(page, clock)["health"] is None


def test_what_makes_a_state_is_named(alarm_file, clock):
    alarm = exported.load(alarm_file)
    alarm.settings = dataclasses.replace(SETTINGS, value_range=((0.0, 2.0),) * 3)
    page = LivePage(alarm.settings, now=clock)
    own = Monitor(alarm, live=True)
    day_s = 86400.0
    dog = watchdog.Watchdog(
        own, out_of_range_after_s=3.0, stale_clock_after_s=60.0, clock=lambda: day_s
    )
    for second in range(8):
        own.feed(f"1970-01-01 00:00:{second:02d},1,{90 + second},1")
        dog.look(caught_up=True)
        page.look(own, dog)
    shown = _shown(page, clock)
    assert shown["health"] == "OUT OF RANGE"
    assert shown["outside"] == {"b": 96.0}
    own.feed("1970-01-01 00:00:08,1,1,1")
    own.feed("1970-01-01 00:00:09,1,1.5,1")
    dog.look(caught_up=True)
    page.look(own, dog)
    shown = _shown(page, clock)
    assert (shown["health"], shown["outside"]) == ("STALE CLOCK", {})
    zone_s = time.localtime(day_s).tm_gmtoff
    assert shown["ahead_s"] in (8.0 - day_s, 8.0 - day_s - zone_s)


def test_every_word_is_in_both_languages():
    words = json.loads((page_server._PAGES / "words.json").read_text("utf-8"))
    english, chinese = words["en"], words["zh"]
    names = {key for key in chinese if key.startswith("name_")}
    assert set(chinese) - names == set(english) - names
    for key in set(english) & set(chinese):
        assert set(re.findall(r"{\w+}", english[key])) == set(
            re.findall(r"{\w+}", chinese[key])
        ), key
    script = (page_server._PAGES / "page.js").read_text("utf-8")
    page = (page_server._PAGES / "page.html").read_text("utf-8")
    said = set(re.findall(r'\bsay\("(\w+)"', script))
    said |= set(re.findall(r'data-word="(\w+)"', page))
    assert len(said) > 25
    assert said <= set(english)
    kinds = [value for name, value in vars(csv_stream).items() if name.isupper()]
    for kind in (kind for kind in kinds if isinstance(kind, str) and " " in kind):
        assert f"kind_{kind}" in english or kind == csv_stream.PLACEHOLDER


def test_memory_and_text_are_bounded(page, clock):
    def run(first, last):
        for i in range(first, last):
            page.take_row(Row(i / 2, (9123.456, 8123.456, i * 1.0)))
            page.write(_cells(i / 2, on=i % 2 == 0))
            page.write([f"{i / 2:.1f}", "", "", "FROZEN"])
        clock.now_s += 1
        return len(page.text())

    full = run(0, 3000)
    kept = [len(own) for own in (page._spans, page._readings, page._events)]
    assert run(3000, 9000) == pytest.approx(full, rel=0.02)
    assert full < 200_000
    assert [len(own) for own in (page._spans, page._readings, page._events)] == kept
    assert kept == [SHOWN_S, 1200, 50]


def test_many_who_ask_get_one_text(page, clock, monkeypatch):
    made = []
    dumps = json.dumps
    monkeypatch.setattr(json, "dumps", lambda *a, **k: made.append(1) or dumps(*a, **k))
    texts = {page.text() for _ in range(50)}
    assert (len(texts), len(made)) == (1, 1)


# To whom


def test_answers_are_of_their_kind_and_forbid_what_is_elsewhere(serve, page):
    server = serve(page)
    for path in ("/", *FILES, "/state.json"):
        status, headers, content = _get(server, path)
        assert status == 200
        assert len(content) == int(headers["Content-Length"]) > 100
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]
        if path.endswith(("html", "/", "css", "js")):
            assert not re.search(rb"https?://|<script>|<style| style=| on\w+=", content)
    assert json.loads(_get(server, "/state.json?x=1")[2])["rows"] == 0


@pytest.mark.parametrize(
    "path", ["/nothing", "/../monitor.py", "/%2e%2e/live.py", "/words"]
)
def test_no_other_file_is_given(serve, page, path):
    status, headers, content = _get(serve(page), path)
    assert (status, content) == (404, b"Not Found\n")
    assert "Content-Security-Policy" in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"])
def test_only_get(serve, page, method):
    assert _get(serve(page), "/state.json", method)[0] == 501


def test_a_name_of_elsewhere_is_refused_on_loopback(serve, page):
    server = serve(page, TOKEN)
    token = f"Bearer {TOKEN}"
    for host, status in (
        ("localhost", 200),
        ("localhost:9000", 200),  # through a tunnel
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("10.0.0.1", 403),
        ("[", 403),
        ("", 403),
    ):
        for path in ("/", "/state.json", "/page.js"):
            found = _get(server, path, Host=host, Authorization=token)[0]
            assert found == status, host


def test_the_address_that_is_named_answers(serve, page, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **how: look_up(
            "127.0.0.1" if host == "furnace" else host, *more, **how
        ),
    )
    server = serve(page, host="furnace")  # as a hosts file may have it
    named = urllib.parse.urlsplit(server.url).netloc
    assert _get(server, "/", Host=named)[0] == 200
    assert _get(server, "/", Host="furnace")[0] == 403


def test_a_token_is_made_beyond_this_machine(serve, page):
    server = serve(page, host="0.0.0.0")
    url = urllib.parse.urlsplit(server.url)
    (token,) = urllib.parse.parse_qs(url.query)["token"]
    assert len(token) >= 32
    assert serve(page, host="0.0.0.0").url != server.url
    local = ("127.0.0.1", server.server_address[1])
    server.server_address = local  # where this test reaches it
    assert _get(server, "/state.json")[0] == 401
    assert _get(server, "/state.json", Host="furnace.example")[0] == 401
    status, _, _ = _get(
        server, "/state.json", Host="furnace.example", Authorization=f"Bearer {token}"
    )
    assert status == 200
    assert "token" not in serve(page).url  # on loopback there need be none


def test_a_token_opens_the_page_once_and_a_cookie_from_then_on(serve, page):
    server = serve(page, TOKEN)
    assert "token" not in server.url
    status, _, content = _get(server, "/")
    assert status == 401
    assert b'name="token"' in content
    assert _get(server, "/state.json")[0] == 401
    status, headers, content = _get(server, f"/?token={TOKEN}")
    assert (status, headers["Location"], content) == (303, "/", b"")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie
    status, _, content = _get(server, "/", Cookie=f"other=1; {cookie}")
    assert status == 200
    assert b"page.js" in content
    assert _get(server, "/state.json", Cookie=cookie)[0] == 200
    name, _, value = cookie.partition("=")
    for wrong in (f"{name}=", f"{name}={value[:-1]}", f"x{cookie}", f"{name}={TOKEN}"):
        assert _get(server, "/state.json", Cookie=wrong)[0] == 401
    for wrong in (TOKEN[:-1], "", "\u6b20\u70e7", f"{TOKEN}x"):
        assert _get(server, f"/?token={urllib.parse.quote(wrong)}")[0] == 401
    for wrong in (f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", TOKEN):
        assert _get(server, "/state.json", Authorization=wrong)[0] == 401
    assert _get(server, "/state.json", Authorization=f"bearer {TOKEN}")[0] == 200


def test_tokens_are_compared_in_constant_time(serve, page, monkeypatch):
    server, compared = serve(page, TOKEN), []
    same = page_server.hmac.compare_digest
    monkeypatch.setattr(
        page_server.hmac,
        "compare_digest",
        lambda a, b: compared.append((a, b)) or same(a, b),
    )
    _get(server, f"/?token={TOKEN}x")
    _get(server, "/state.json", Authorization="Bearer x")
    assert len(compared) == 2
    assert all(len(a) == len(b) == 64 for a, b in compared)


def test_where_a_token_comes_from(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.delenv(page_server.TOKEN, raising=False)
    assert page_server.read_token(None) is None
    assert page_server.read_token(path) == TOKEN
    monkeypatch.setenv(page_server.TOKEN, "another-0123456789")
    assert page_server.read_token(None) == "another-0123456789"
    assert page_server.read_token(path) == TOKEN
    for wrong in ("", "short", "two lines\nof a long text"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="at least 16 characters; got"):
            page_server.read_token(path)
    with pytest.raises(
        ValueError, match=r"--token_file must be .* \(Is a directory\);"
    ):
        page_server.read_token(tmp_path)


# That it stops nothing


def test_a_client_that_stays_is_sent_away_and_others_are_answered(
    serve, page, monkeypatch
):
    monkeypatch.setattr(page_server, "MOST_S", 1.0)
    server = serve(page)
    began_s = time.monotonic()
    with socket.create_connection(_address(server)) as slow:
        slow.sendall(b"GET /state.json HT")
        assert _get(server, "/state.json")[0] == 200
        slow.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while time.monotonic() - began_s < 20 and slow.recv(1000):
                pass  # one that drips is not let on either
    assert time.monotonic() - began_s < 10
    _until(lambda: not server._ends_s)


def test_a_client_that_reads_nothing_is_sent_away(serve, monkeypatch):
    monkeypatch.setattr(page_server, "MOST_S", 1.0)
    server = serve(lambda: b"x" * (64 << 20))
    with socket.create_connection(_address(server)) as deaf:
        deaf.sendall(b"GET /state.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
        _until(lambda: server._ends_s)
        _until(lambda: not server._ends_s)


def _until(true, seconds=20.0):
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_clients_beyond_the_most_are_turned_away_and_later_let_in(serve, page):
    server = serve(page)
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(page_server.MOST_CLIENTS):
            stack.enter_context(socket.create_connection(_address(server)))
        _until(lambda: len(server._ends_s) == page_server.MOST_CLIENTS)
        for _ in range(5):
            with pytest.raises((http.client.BadStatusLine, ConnectionError)):
                _get(server, "/state.json")
        assert threading.active_count() <= before + page_server.MOST_CLIENTS
    _until(lambda: not server._ends_s)
    assert _get(server, "/state.json")[0] == 200


def test_a_client_that_vanishes_is_no_news(serve, page, caplog, capfd):
    server = serve(page)
    for text in (
        b"",
        b"\x00\xff\r\n\r\n",
        b"GET /state.json HTTP/1.0\r\nHost: localhost",
    ):
        with socket.create_connection(_address(server)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01" + b"\0" * 7)
            gone.sendall(text)
    _until(lambda: not server._ends_s)
    assert _get(server, "/state.json")[0] == 200
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_what_fails_in_an_answer_is_said_and_the_next_is_given(serve, page, caplog):
    texts = iter([lambda: 1 / 0, page.text])
    server = serve(lambda: next(texts)())
    with pytest.raises(http.client.BadStatusLine):
        _get(server, "/state.json")
    assert "the page could not answer: ZeroDivisionError" in caplog.text
    assert _get(server, "/state.json")[0] == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--serve", "8000"], "--serve must be HOST:PORT; got '8000'"),
        (["--serve", "127.0.0.1:http"], "--serve must be HOST:PORT"),
        (["--serve", "127.0.0.1:99999"], "--serve must be HOST:PORT"),
        (["--serve", "203.0.113.7:0"], "an address of this machine"),
        (["--serve", "TAKEN"], "Address already in use"),
        (["--serve", "127.0.0.1:0", "--token_file", "no/such"], "no/such (No such"),
        (["--serve", "127.0.0.1:0", "--token_file", __file__], "must be one line"),
    ],
)
def test_what_cannot_be_served_is_one_line_before_anything_starts(
    alarm_file, tmp_path, serve, page, capsys, given, message
):
    host, port = _address(serve(page))
    given = [f"{host}:{port}" if word == "TAKEN" else word for word in given]
    log = tmp_path / "log.csv"
    common = ["--alarm", str(alarm_file), "--input", "-", "--log", str(log)]
    with pytest.raises(SystemExit) as ended:
        monitor.main([*common, *given])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not log.exists()


def test_a_replay_is_not_served(alarm_file, capsys):
    given = ["--alarm", str(alarm_file), "--input", "x", "--serve", "127.0.0.1:0"]
    with pytest.raises(SystemExit):
        monitor.main(given)
    assert "--serve and --mqtt tell of a live input; got a file to be replayed" in (
        capsys.readouterr().err
    )


# With the monitor


class Running:
    """A monitor with a page, and a file that grows."""

    def __init__(self, alarm_path, folder, lines, *given):
        self.path, self.log = folder / "live.csv", folder / "log.csv"
        self.path.write_text("".join(f"{line}\n" for line in lines))
        common = ("--input", self.path, "--follow", "--log", self.log)
        where = ("--serve", "127.0.0.1:0", "--no_data_after", 0)
        self.process = _start(alarm_path, *common, *where, *given)
        self.said = []
        for text in self.process.stderr:
            self.said.append(text)
            if found := re.search(r"the page is at (http://\S+)", text):
                self.url = found[1]
                break
        url = urllib.parse.urlsplit(self.url)
        self.server_address = (url.hostname, url.port)

    def add(self, lines):
        with self.path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def state(self):
        return json.loads(_get(self, "/state.json")[2])

    def stop(self):
        self.process.terminate()
        _, errors = self.process.communicate(timeout=60)
        self.said.append(errors)
        return "".join(self.said)


@pytest.fixture
def run(tmp_path):
    """Starts monitors with a page; they end with the test."""
    running = []

    def start(*given):
        running.append(Running(given[0], tmp_path, *given[1:]))
        return running[-1]

    yield start
    for own in running:
        if own.process.poll() is None:
            own.process.kill()
            own.process.communicate()


def test_the_page_shows_what_is_logged_and_so_after_a_restart(alarm_file, run):
    lines = _lines()
    own = run(alarm_file, ["time,a,b,c", *lines[:60], "garbage"])
    _until(lambda: len(own.state()["readings"]) == 26)
    own.add(lines[60:])
    _until(lambda: len(own.state()["readings"]) == 56)
    shown = own.state()
    logged = _table(own.log)[1:]
    assert [[t, p] for t, p, _ in shown["readings"]] == [
        [float(row[0]), float(row[1])] for row in logged
    ]
    assert [on for _, _, on in shown["readings"]] == [r[3] == "ALARM" for r in logged]
    changed = [b for a, b in itertools.pairwise(logged) if a[3] != b[3]]
    assert [row[3] for row in changed] == ["ALARM", "normal"]
    assert shown["events"] == changed[::-1]
    assert shown["reading"] == logged[-1]
    # What stands in the file, but for the last row, which none has followed.
    rows = [list(map(float, line.split(","))) for line in lines[:-1]]
    assert shown["row"] == {"time_s": rows[-1][0], "values": rows[-1][1:]}
    assert shown["rows"] == len(rows)
    assert sum(shown["left_out"].values()) == 1
    second = [row[1:] for row in rows if int(row[0]) == 30]
    low, high = next(span[1:] for span in shown["spans"] if span[0] == 30)
    np.testing.assert_allclose([low, high], [np.min(second, 0), np.max(second, 0)])
    assert shown["alarm"] == {
        "abnormal": "semi-molten",
        "channels": ["a", "b", "c"],
        "unit": "A",
        "raise_at": 0.5,
        "clear_at": 0.4,
    }
    assert "56 ticks scored" in own.stop()
    with pytest.raises(ConnectionError):
        own.state()
    again = run(alarm_file, ["time,a,b,c", *lines])
    _until(lambda: again.state()["rows"] == len(rows))
    assert _table(again.log)[1:] == logged  # nothing new was written
    after = again.state()
    for what in ("readings", "events", "reading", "spans"):
        assert after[what] == shown[what]


def test_clients_of_all_kinds_do_not_slow_the_monitor(alarm_file, run):
    """With 20 that hold their connection and 8 that ask without a pause."""
    lines = _lines(ticks=120)
    own = run(alarm_file, ["time,a,b,c", *lines[:10]])
    ended = threading.Event()

    def ask():
        while not ended.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                _get(own, "/state.json")

    with contextlib.ExitStack() as stack:
        for _ in range(20):
            idle = stack.enter_context(socket.create_connection(own.server_address))
            idle.sendall(b"GET /")
        asking = [threading.Thread(target=ask) for _ in range(8)]
        for thread in asking:
            thread.start()
        for line in lines[10:]:
            own.add([line])
            time.sleep(0.005)
        _until(lambda: len(_table(own.log)) == 1 + 120 - 4, 60)
        ended.set()
        for thread in asking:
            thread.join()
    said = own.stop()
    times = [float(row[0]) for row in _table(own.log)[1:]]
    assert times == [4.0 + tick for tick in range(len(times))]
    assert "Traceback" not in said
    median_ms = float(re.search(r"a tick's score ([\d.]+) ms", said)[1])
    assert median_ms < 200


def test_token_file_and_level_of_the_command_line_are_used(alarm_file, run, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    given = ("--token_file", tmp_path / "token", "--raise_at", 0.75)
    own = run(alarm_file, _lines(), *given)
    assert _get(own, "/state.json")[0] == 401
    status, _, text = _get(own, "/state.json", Authorization=f"Bearer {TOKEN}")
    assert status == 200
    assert json.loads(text)["alarm"]["raise_at"] == 0.75
    assert TOKEN not in own.stop()


# In a browser


@pytest.fixture
def show(browser):
    """Opens pages; afterwards they must have said nothing and asked only here."""
    opened, said, asked, here = [], [], [], []

    def open_page(url, locale="en-US", may_be_said=None):
        def say(text):
            if may_be_said is None or may_be_said not in text:
                said.append(text)

        view = browser.new_page(viewport={"width": 1280, "height": 720}, locale=locale)
        view.on("console", lambda message: say(message.text))
        view.on("pageerror", lambda error: say(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.set_default_timeout(60_000)  # milliseconds, on a busy machine
        opened.append(view)
        here.append(url.partition("?")[0])
        view.goto(url)
        return view

    yield open_page
    for view in opened:
        view.close()
    assert said == []
    assert asked
    assert [url for url in asked if not url.startswith(tuple(here))] == []


def _wait(view, selector, text):
    view.wait_for_function(
        "([selector, text]) =>"
        " document.querySelector(selector).innerText.includes(text)",
        arg=[selector, text],
    )


def _filled(alarm, on=False, settings=SETTINGS):
    page = LivePage(settings, now=Clock())  # however long a browser takes
    own = Monitor(alarm, live=True, on_row=page.take_row)
    for line in _lines(ticks=30 if on else 60):
        for reading in own.feed(line):
            page.write(monitor._cells(reading, False))
    dog = watchdog.Watchdog(own)
    page.look(own, dog)
    return page, own, dog


@pytest.mark.slow
def test_the_browser_shows_the_state_in_two_languages(alarm_file, serve, show):
    alarm = exported.load(alarm_file)
    page, own, _ = _filled(alarm, on=True)
    url = serve(page).url
    view = show(url)
    _wait(view, "#state_word", "ALARM")
    assert view.get_attribute("#state", "data-kind") == "alarm"
    assert view.evaluate("parseFloat(getComputedStyle(state_word).fontSize)") > 100
    assert "Early warning: semi-molten" in view.inner_text("h1")
    reading = json.loads(page.text())["reading"]
    times = view.inner_text("#visible_times")
    assert all(text in times for text in reading[4:7])
    assert "earliest" in times
    assert view.inner_text("#visible_in").startswith("in 3 min")
    assert "a " in view.inner_text("#current_key")
    assert "raise at 0.50" in view.inner_text("#probability_key")
    assert "clear below 0.40" in view.inner_text("#probability_key")
    assert "good" in view.inner_text("#health_table")
    assert str(own.rows) in view.inner_text("#health_table")
    assert view.locator("#history_table tr").count() == 1
    assert view.title().startswith("ALARM")
    view.click("#language button[value=zh]")
    assert view.inner_text("#state_word") == "\u62a5\u8b66"
    assert view.get_attribute("html", "lang") == "zh-CN"
    for selector, term in (
        ("h1", "\u6b20\u70e7"),
        ("#visible h2", "\u9884\u8ba1\u53ef\u89c1\u65f6\u95f4"),
        ("#current_title", "\u7535\u6781\u7535\u6d41"),
        ("#probability_title", "\u6982\u7387"),
        ("#health h2", "\u6570\u636e\u72b6\u6001"),
        ("#history h2", "\u5386\u53f2"),
    ):
        assert term in view.inner_text(selector)
    view.reload()  # the choice is kept
    _wait(view, "#state_word", "\u62a5\u8b66")
    other = show(url, locale="zh-CN")
    _wait(other, "#state_word", "\u62a5\u8b66")
    other.click("#language button[value=en]")
    assert other.inner_text("#state_word") == "ALARM"


def _coloured(view, canvas, colours):
    """How many pixels of a canvas have each colour."""
    return view.evaluate(
        """([id, colours]) => {
            const canvas = document.getElementById(id);
            const { data } = canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height);
            const counts = colours.map(() => 0);
            for (let i = 0; i < data.length; i += 4)
                colours.forEach(([r, g, b], c) => {
                    if (data[i] === r && data[i + 1] === g && data[i + 2] === b
                        && data[i + 3] === 255) counts[c] += 1;
                });
            return counts;
        }""",
        [canvas, colours],
    )


CHANNELS = ((0, 114, 178), (213, 94, 0), (0, 158, 115))
INK, ALARM = (16, 24, 31), (193, 18, 31)


@pytest.mark.slow
def test_the_charts_are_drawn(alarm_file, serve, show):
    page, _, _ = _filled(exported.load(alarm_file))
    view = show(serve(page).url)
    _wait(view, "#state_word", "NORMAL")
    assert min(_coloured(view, "current", CHANNELS)) > 50
    score, level = _coloured(view, "probability", (INK, ALARM))
    assert score > 50
    assert level > 200
    empty = show(serve(LivePage(SETTINGS)).url)
    _wait(empty, "#state_word", "WAITING")
    assert _coloured(empty, "current", CHANNELS) == [0, 0, 0]
    assert "none" in empty.inner_text("#health_table")


@pytest.mark.slow
def test_a_page_never_looks_better_than_the_data(alarm_file, serve, show):
    clock = Clock()
    page = LivePage(SETTINGS, now=clock)
    own = Monitor(exported.load(alarm_file), live=True, on_row=page.take_row)
    dog = watchdog.Watchdog(own, no_data_after_s=10.0, now=clock)

    def look():
        clock.now_s += 1
        dog.look()
        page.look(own, dog)

    with PageServer("127.0.0.1", 0, None, page.text) as server:
        server.start()
        view = show(server.url, may_be_said="ERR_CONNECTION_REFUSED")
        _wait(view, "#state_word", "WAITING")
        for line in _lines(ticks=12):
            for reading in own.feed(line):
                page.write(monitor._cells(reading, False))
        look()
        _wait(view, "#state_word", "NORMAL")
        clock.now_s += 20
        look()
        _wait(view, "#state_word", "NO DATA")
        assert "last known: NORMAL" in view.inner_text("#state_more")
        assert view.get_attribute("#state", "data-kind") == "doubt"
        clock.now_s += 60  # the monitor does not look any more
        _wait(view, "#state_word", "MONITOR STOPPED")
    _wait(view, "#state_word", "NO CONNECTION")


@pytest.mark.slow
def test_names_stay_text(alarm_file, serve, show):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    settings = dataclasses.replace(
        SETTINGS, abnormal=evil, unit=evil, channels=(evil, "constructor", "{p}")
    )
    page, own, dog = _filled(exported.load(alarm_file), settings=settings)
    page.write(["9.0", "", "", evil])
    own.warnings.add(evil, "")
    page.look(own, dog)
    view = show(serve(page).url)
    view.on("dialog", lambda dialog: pytest.fail("a name was run"))
    _wait(view, "#state_word", "NORMAL")
    for selector in ("h1", "#current_title", "#current_key", "#history", "#health"):
        assert evil in view.inner_text(selector)
    assert view.locator("main script, main img, h1 *").count() == 0
    assert "constructor" in view.inner_text("#current_key")


@pytest.mark.slow
def test_a_token_is_typed_once(alarm_file, serve, show):
    page, _, _ = _filled(exported.load(alarm_file))
    server = serve(page, TOKEN)
    view = show(f"{server.url}?token={TOKEN}")
    _wait(view, "#state_word", "NORMAL")
    assert TOKEN not in view.url
    assert view.evaluate("document.cookie") == ""  # of no use to a script
