"""The page at `/` on the metrics port, in a real browser: every state, light and dark, on a phone, without a script, and
to who cannot see it. KMSWARD_SHOTS=FOLDER keeps a picture of each."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import urllib.error
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from daemon import KeyFile, eventually
from jdcloud_client import ACCESS_KEY, SECRET_KEY
from test_trouble import SELDOM

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
#: What the page asks for again, and how often, in milliseconds.
RENEWAL = 5000


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    assert program, "no chromium: ops/dev/install-packages test"
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield one
        one.close()


@contextlib.contextmanager
def shown(browser, daemon, may_fail=False, **options):
    """The page in a window of its own; it must load nothing but itself, and have nothing to complain of."""
    window = browser.new_context(**{"viewport": DESK, **options})
    page = window.new_page()
    page.clock.install()
    said, asked = [], set()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    try:
        address = f"http://{daemon.configuration['metrics']['listen']}/"
        page.goto(address)
        yield page
        if not may_fail:
            assert {url for url in asked if not url.startswith("data:")} == {address}
            assert not said, said
    finally:
        window.close()


def headline(page):
    return page.locator("h1").inner_text().split(" ", 1)[1]


def renewed(page):
    """Lets the time of one renewal pass in the page, and waits until it has happened."""
    with page.expect_response("**/"):
        page.clock.fast_forward(RENEWAL)


# ---- states --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def well(start):
    one = start()
    with one.kms() as kms:
        kms.open(kms.encrypt(bytes(32)))
    yield one


@contextlib.contextmanager
def riding(on_jdcloud, fake):
    one = on_jdcloud()
    with fake.fault("error", code=500):
        eventually(lambda: one.metric("kmsward_key_trouble", key="primary") == 1, "there is trouble")
        yield one


@contextlib.contextmanager
def down(on_jdcloud, fake):
    one = on_jdcloud(key={"ride_through": "1s", "auth_grace": "1s"})
    with fake.fault("error", code=403):
        eventually(lambda: one.metric("kmsward_ready") == 0, "it is not ready any more")
        yield one


@contextlib.contextmanager
def mute(on_jdcloud, fake):
    one = on_jdcloud(key={"write_format": "compatible"})
    with fake.fault("error", code=500):
        eventually(lambda: one.metric("kmsward_key_trouble", key="primary") == 1, "there is trouble")
        yield one


@contextlib.contextmanager
def starting(prepare, folder, fake):
    block = fake.block(folder)
    with fake.fault("hang"):
        one = prepare(keys=[{"name": "primary", "jdcloud": block}]).launch()
        eventually(lambda: "listening" in one.log(), "it listens")
        yield one


@contextlib.contextmanager
def refused(start):
    one = start()
    one.configuration["keys"][0]["nmae"] = "x"
    one.config_path.write_text(json.dumps(one.configuration))
    one.process.send_signal(signal.SIGHUP)
    eventually(lambda: one.metric("kmsward_config_reloads_total", result="refused") > 0, "it is refused")
    yield one


@contextlib.contextmanager
def crowded(start, folder):
    """Many keys, one of which is broken, and an hour of which some seconds have passed."""
    names = [f"former-{number}" for number in range(20)]
    files = {name: KeyFile(folder / f"{name}.keys").init() for name in names}
    own = KeyFile(folder / "local.keys")
    keys = [{"name": "primary", "local": {"file": str(own.path)}}]
    keys += [{"name": name, "local": {"file": str(file.path)}} for name, file in files.items()]
    one = start(keys=keys)
    files["former-13"].path.unlink()
    with one.kms() as kms:
        for _ in range(2000):
            kms.open(kms.encrypt(bytes(32)))
    eventually(lambda: "nothing to measure yet" not in page_source(one), "two samples are taken", patience=60)
    eventually(lambda: one.metric("kmsward_key_trouble", key="former-13") == 1, "the loss is seen")
    yield one


NAMES = ["well", "riding", "mute", "down", "starting", "refused", "crowded"]


@pytest.fixture(params=NAMES)
def state(request):
    """(name, daemon, its headline, what the page must say besides)"""
    get = request.getfixturevalue
    made, head, words = {
        "well": (lambda: well(get("start")), "Serving", ["primary", "well", "KW-KEY-ACTIVE"]),
        "riding": (
            lambda: riding(get("on_jdcloud"), get("fake")), "Serving, but not all is well",
            ["Key-management service, or the way to it", "serves, with trouble", "writes stop in", "kmsward explain KW-KEY-UNAVAILABLE"],
        ),
        "mute": (
            lambda: mute(get("on_jdcloud"), get("fake")), "Writes fail; what is in memory can be read",
            ["writes fail already", "does not encrypt"],
        ),
        "down": (
            lambda: down(get("on_jdcloud"), get("fake")), "Not ready: Secrets cannot be written, perhaps not read",
            ["Permissions of the credentials", "does not serve", "KW-KEY-DENIED"],
        ),
        "starting": (
            lambda: starting(get("prepare"), get("folder"), get("fake")), "Starting: not known yet whether the key works",
            ["not known yet"],
        ),
        "refused": (
            lambda: refused(get("start")), "Serving, but not all is well",
            ["Configuration", "kmsward explain KW-CONFIG-REFUSED", "did you mean name?"],
        ),
        "crowded": (
            lambda: crowded(get("start"), get("folder")), "Serving, but not all is well",
            ["former-13 does not serve", "former-7 well", "per second", "none in the last hour"],
        ),
    }[request.param]  # fmt: skip
    with made() as one:
        yield request.param, one, head, words


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": PHONE, "has_touch": True, "is_mobile": True},
    "without-script": {"java_script_enabled": False},
}


def test_every_state_is_told_to_everybody(browser, state):
    """Headline and findings are there in every look, nothing is cut off, and no rule of accessibility is broken."""
    name, one, head, words = state
    for look, options in LOOKS.items():
        with shown(browser, one, **options) as page:
            text = page.locator("body").inner_text()
            assert headline(page) == head
            text = " ".join(text.split())
            for word in words:
                assert word in text, f"{look}: {word}"
            assert page.title().endswith(f"{head} – kmsward on {os.uname().nodename}")
            if look != "without-script":
                wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                assert wide <= 0, f"{look}: {wide} pixels too wide"
        # In a window without the policy: whoever examines a page puts styles and scripts of his own into it.
        with shown(browser, one, bypass_csp=True, **options) as page:
            if folder := os.environ.get("KMSWARD_SHOTS"):
                page.screenshot(path=pathlib.Path(folder) / f"{name}-{look}.png", full_page=True)
            if look != "without-script":
                found = Axe().run(page)
                assert found.violations_count == 0, f"{look}: {found.generate_report()}"
    source = page_source(one)
    for secret in (ACCESS_KEY, SECRET_KEY, *(secret.hex() for secret in secrets(one))):
        assert secret not in source


def secrets(daemon):
    """The keys themselves, of the files that it has."""
    files = [KeyFile(key["local"]["file"]) for key in daemon.configuration["keys"] if "local" in key]
    return [secret for file in files if file.path.exists() for secret in file.secrets]


def page_source(daemon):
    with urllib.request.urlopen(f"http://{daemon.configuration['metrics']['listen']}/", timeout=10) as answer:
        return answer.read().decode()


def test_axe_finds_what_is_not_accessible(browser, start):
    """That the check above can fail."""
    with well(start) as one, shown(browser, one, bypass_csp=True) as page:
        page.evaluate("document.querySelector('main').append(document.createElement('button'))")
        assert Axe().run(page).violations_count > 0


# ---- it renews itself ----------------------------------------------------------------------------------------------


def test_the_page_follows_the_daemon_without_being_loaded_again(browser, on_jdcloud, fake):
    one = on_jdcloud()
    with shown(browser, one) as page:
        page.evaluate("window.kept = true")
        assert headline(page) == "Serving"
        with fake.fault("error", code=500):
            eventually(lambda: one.metric("kmsward_key_trouble", key="primary") == 1, "there is trouble")
            renewed(page)
            page.wait_for_function("document.querySelector('h1').className == 'trouble'")
            assert "Serving, but not all is well" in page.title()
        eventually(lambda: one.metric("kmsward_key_trouble", key="primary") == 0, "it is over")
        renewed(page)
        page.wait_for_function("document.querySelector('h1').className != 'down' && document.querySelector('article.well')")
        assert page.evaluate("window.kept"), "it was loaded again"


def test_old_values_do_not_pass_for_new_ones(browser, start):
    one = start()
    with shown(browser, one, may_fail=True) as page:
        stale = page.locator("#stale")
        shown_at = page.locator("footer time").inner_text()
        assert not stale.is_visible()
        one.stop()
        page.clock.fast_forward(RENEWAL)
        stale.wait_for(state="visible")
        assert shown_at in stale.inner_text()
        assert headline(page) == "No answer from the daemon" and page.title() == "? No answer from the daemon"
        one.start()
        renewed(page)
        stale.wait_for(state="hidden")
        assert headline(page) in ("Serving", "Starting: not known yet whether the key works")


def test_what_somebody_is_about_to_copy_stays_and_is_called_old(browser, start):
    with well(start) as one, shown(browser, one) as page:
        page.evaluate("document.getSelection().selectAllChildren(document.querySelector('dd code'))")
        chosen = page.evaluate("document.getSelection().toString()")
        assert chosen.startswith("kw1.")
        page.evaluate("window.footer = document.querySelector('footer')")
        renewed(page)
        page.locator("#stale").wait_for(state="visible")
        assert "Held while something is selected" in page.locator("#stale").inner_text()
        assert page.evaluate("window.footer.isConnected && document.getSelection().toString()") == chosen
        page.evaluate("document.getSelection().removeAllRanges()")
        renewed(page)
        page.wait_for_function("!window.footer.isConnected")
        page.locator("#stale").wait_for(state="hidden")


def test_what_is_selected_as_a_whole_stays_too(browser, start):
    with well(start) as one, shown(browser, one) as page:
        page.evaluate("window.footer = document.querySelector('footer')")
        page.evaluate("document.getSelection().selectAllChildren(document.body)")
        renewed(page)
        page.locator("#stale").wait_for(state="visible")
        assert page.evaluate("window.footer.isConnected")


def test_a_selection_does_not_hide_that_the_daemon_is_gone(browser, start):
    with well(start) as one, shown(browser, one, may_fail=True) as page:
        page.evaluate("document.getSelection().selectAllChildren(document.querySelector('dd code'))")
        one.stop()
        page.clock.fast_forward(RENEWAL)
        page.wait_for_function("document.title.startsWith('?')")


def test_what_was_unfolded_stays_so(browser, start, folder):
    keys = [{"name": name, "local": {"file": str(KeyFile(folder / f"{name}.keys").init().path)}} for name in ("primary", "former")]
    one = start(keys=keys)
    with shown(browser, one) as page:
        eventually(lambda: one.metric("kmsward_key_ready", key="former") == 1, "both keys are known")
        renewed(page)
        page.locator("#key-former summary").click()
        assert page.evaluate("document.activeElement.id") == "open-former"
        page.evaluate("window.footer = document.querySelector('footer')")
        renewed(page)
        page.wait_for_function("!window.footer.isConnected")
        assert page.locator("#key-former dl").is_visible()
        assert page.evaluate("document.activeElement.id") == "open-former", "the keyboard's place"


def test_a_page_of_others_cannot_read_it_by_a_name_of_theirs(start):
    one = start()
    listen = one.configuration["metrics"]["listen"]
    for host, expected in (("evil.example", 421), ("localhost", 200), (listen, 200), ("[::1]:9464", 200), (os.uname().nodename, 200), (os.uname().nodename + ".evil.example", 421)):
        request = urllib.request.Request(f"http://{listen}/", headers={"Host": host})
        try:
            status = urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == expected, host


def test_the_keyboards_place_stays(browser, start):
    with well(start) as one, shown(browser, one) as page:
        page.locator("#to-readyz").focus()
        page.evaluate("window.footer = document.querySelector('footer')")
        renewed(page)
        page.wait_for_function("!window.footer.isConnected")
        assert page.evaluate("document.activeElement.id") == "to-readyz"


# ---- nothing else runs or is loaded ----------------------------------------------------------------------------------


def test_nothing_that_got_into_the_page_can_run_or_load(browser, start):
    with well(start) as one, shown(browser, one, may_fail=True) as page:
        blocked = page.evaluate("""async () => {
            const blocked = [];
            document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
            const add = (name, more) => document.body.append(Object.assign(document.createElement(name), more));
            add("script", { textContent: "window.evil = 1" });
            add("img", { src: "http://192.0.2.1/x.png" });
            add("div", { innerHTML: "<b onclick='window.evil = 1'>x</b>" });
            document.querySelector("div b").click();
            add("link", { rel: "stylesheet", href: "http://192.0.2.1/x.css" });
            await fetch("http://192.0.2.1/").catch(() => {});
            await new Promise(requestAnimationFrame);
            return [window.evil, blocked.sort()];
        }""")
    evil, directives = blocked
    assert evil is None
    assert {"script-src-elem", "script-src-attr", "img-src", "style-src-elem", "connect-src"} <= set(directives), directives


def test_looking_costs_the_service_nothing(on_jdcloud, fake):
    one = on_jdcloud(changes=SELDOM)
    with one.kms() as kms:
        kms.status()
    before = fake.calls()
    for _ in range(50):
        assert "<h1" in page_source(one)
    assert fake.calls() == before
