"""Rows 19 to 22 and 45: receivers of webhooks that fail, are away or refuse; and others than one thinks, over TLS."""

import base64
import itertools
import signal
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trustme
from daemon import JSONL, Daemon
from fast_clock import fast_clock, missing
from misbehaving_server import MisbehavingServer, Reply, redirect, status
from mosquitto import Mosquitto
from observed import until
from spool_file import read_spool
from standardwebhooks import Webhook, WebhookVerificationError
from webhook_receiver import Faults, WebhookReceiver

from tests.kills import webhook as kills
from tests.scorecard.operation import ROOMY, synthetic, tool
from tests.scorecard.sources import hold
from tests.scorecard.table import Figures, NotRunError

RIG = '\ndata_dir = "data"\n\n[backends.rig]\ntype = "rig"\n'
SPEED = 60


def hook(name: str, url: str, more: str = "") -> str:
    """The table of a webhook."""
    return f'\n[sinks.{name}]\ntype = "webhook"\nurl = "{url}"\n{more}\n'


def row_19(folder: Path) -> Figures:
    """kill -9 at 40 random moments; the receiver fails one request in ten and loses one answer in twenty."""
    faults = Faults(19, later=0.1, lost_acks=0.05, delay_s=0.01)
    figures = kills.run(folder, 40, results=1000, faults=faults, seed=int(time.time()), away=False)
    assert figures["first after the last start s"] <= 10
    return figures


def row_20(folder: Path) -> Figures:
    """The receiver is down for an hour, all clocks 60 times as fast: the spool holds the newest that it can."""
    if (why := missing()) is not None:
        raise NotRunError(why)
    max_bytes = 256 << 10
    more = f"timeout_s = 300\nbuffer = {{ max_bytes = {max_bytes} }}\n"
    with WebhookReceiver() as receiver:
        camera = synthetic("cam", 0.5, f"stall_timeout_s = 600\n{ROOMY}")
        with Daemon(
            folder, RIG + camera + hook("hook", receiver.url, more), environment=fast_clock(folder, SPEED)
        ) as daemon:
            daemon.ready(60)
            receiver.wait(lambda: len(receiver.taken()) >= 20, 60)
            receiver.down()
            away_at, largest = time.monotonic(), 0
            while time.monotonic() < away_at + 3600 / SPEED:
                time.sleep(1)
                assert daemon.scrape().of("penstock_sink_spool_bytes", sink="hook") <= max_bytes
                largest = max(largest, read_spool(folder / "data/spool/hook.webhook.db").nbytes)
            sent_before = len(receiver.taken())
            kept = list(read_spool(folder / "data/spool/hook.webhook.db").waiting)
            receiver.up()
            back_at = time.monotonic()
            receiver.wait(lambda: kept[-1] in receiver.taken(), 60)
            drained_s = time.monotonic() - back_at
            daemon.stop(30)
            log = daemon.log()
        items = receiver.firsts()["cam"]
    numbers = [item.document["frame_id"] for item in items]
    holes = [(one, two) for one, two in itertools.pairwise(numbers) if two != one + 1]
    # The one that was being tried when its turn to be dropped came was not: it may stand alone between two gaps.
    assert len(holes) in (1, 2), f"gaps at {holes}, not where the oldest were dropped"
    assert len(holes) == 1 or holes[0][1] == holes[1][0], f"gaps at {holes}"
    dropped = sum(after - before - 1 for before, after in holes)
    assert f"{dropped} dropped" in log.replace(",", ""), f"{dropped} are missing: {log.splitlines()[-4:]}"
    # Until the receiver was back, a few more of the oldest went, but for the one that was being tried.
    went = {name for name in kept if name not in receiver.taken()}
    assert went <= set(kept[: len(went) + 1]), "what was kept has not arrived"
    assert len(went) < len(kept) / 4
    return {
        "sent before": sent_before,
        "dropped by the rule": dropped,
        "kept": len(kept),
        "spool bytes at most": largest,
        "drained s": drained_s,
        "out of order": 0,
    }


def _secret(byte: bytes) -> str:
    return "whsec_" + base64.b64encode(byte * 32).decode()


def row_21(folder: Path) -> Figures:
    """Signatures: all verify, none that was tampered with; both keys while one takes the place of the other."""
    old, new = _secret(b"o"), _secret(b"n")
    tampered = 0
    with WebhookReceiver() as receiver:
        text = RIG + synthetic("cam", 20)

        def table(secrets: str) -> str:
            return text + hook("hook", receiver.url, f"secret = {secrets}")

        verified = dict.fromkeys(("old", "both: old", "both: new", "new"), 0)
        with Daemon(folder, table(f'"{old}"')) as daemon:
            daemon.ready()
            for phase, secrets, keys in (
                ("old", f'"{old}"', {"old": old}),
                ("both", f'["{new}", "{old}"]', {"both: old": old, "both: new": new}),
                ("new", f'["{new}"]', {"new": new}),
            ):
                if phase != "old":
                    daemon.write(table(secrets))
                    assert daemon.reload()
                begin = len(receiver.asked)
                until("twenty more", partial(_asked, receiver, begin + 20), 20)
                for asked in receiver.asked[begin:]:
                    for name, key in keys.items():
                        Webhook(key).verify(asked.body, asked.headers)
                        verified[name] += 1
                        for body, headers in (
                            (asked.body.replace(b"rig", b"gir"), asked.headers),
                            (asked.body, asked.headers | {"webhook-id": "0" * 32}),
                            (asked.body, asked.headers | {"webhook-timestamp": str(int(time.time()) + 1000)}),
                        ):
                            tampered += _is_refused(key, body, headers)
            daemon.stop()
    assert tampered == 3 * sum(verified.values())
    return {"verified": sum(verified.values()), "with either of two keys": verified["both: old"], "tampered": tampered}


def _is_refused(key: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(key).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def row_22(folder: Path) -> Figures:
    """410 disables the sink and is told; a 301 is not followed; a Retry-After of 3 s is waited for."""
    retry = "retry = { min_s = 0.05, max_s = 0.5 }"
    with ExitStack() as stack:
        gone, moved, busy, elsewhere = (stack.enter_context(WebhookReceiver()) for _ in range(4))
        gone.always(status(410))
        moved.always(Reply(301, redirect(elsewhere.url).headers, b""))
        busy.then(status(429, Retry_After="3"))
        text = RIG + synthetic("cam", 10, ROOMY) + JSONL.replace('["sources"]', '["daemon"]')
        for name, receiver in (("gone", gone), ("moved", moved), ("busy", busy)):
            text += hook(name, receiver.url, retry)
        daemon = stack.enter_context(Daemon(folder, text)).ready()
        until("busy is asked twice", lambda: len(busy.asked) >= 2, 20)
        waited_s = busy.asked[1].at - busy.asked[0].at
        assert 2.7 <= waited_s <= 3.3, f"waited {waited_s:.2f} s, not 3"
        until("moved was tried again", lambda: len(moved.asked) >= 5, 20)
        assert elsewhere.asked == []
        asked = len(gone.asked)
        hold(daemon, 2)
        assert len(gone.asked) == asked == 1, f"{len(gone.asked)} requests after a 410"
        samples = daemon.scrape()
        assert samples.of("penstock_sink_state", sink="gone", state="failed") == 1
        assert "410" in daemon.log()
        told = [line for line in daemon.lines("out/penstock.jsonl") + _notices(daemon) if "410" in str(line)]
        assert told, "no event tells of the 410"
        moved.always()
        until("what has moved is sent after all", lambda: samples_pending(daemon, "moved") == 0, 20)
        numbers = [item.document["frame_id"] for item in moved.firsts()["cam"]]
        assert numbers == list(range(len(numbers)))
        daemon.stop(code=None)
    return {"429: waited s": waited_s, "301: followed": 0, "301: tried": len(moved.asked), "410: requests": asked}


def samples_pending(daemon: Daemon, sink: str) -> int:
    """How many results wait in front of a sink."""
    return int(daemon.scrape().of("penstock_sink_pending", sink=sink))


def _notices(daemon: Daemon) -> list[dict[str, object]]:
    files = sorted((daemon.folder / "out").glob("*.jsonl"))
    return [line for file in files for line in daemon.lines(f"out/{file.name}") if line.get("event") == "sink"]


FAULTS = {
    "expired": "certificate has expired",
    "other_host": "certificate is not valid for '127.0.0.1'",
    "self_signed": "unable to get local issuer certificate",
}
"""What is wrong with a certificate, and how it is told."""


def row_45(folder: Path) -> Figures:
    """TLS of webhooks, backends and MQTT: expired, another host's, a stranger's: refused; else taken and told."""
    tool("mosquitto")
    ours, stranger = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    certificates = {
        "expired": ours.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
        "other_host": ours.issue_cert("elsewhere.example"),
        "self_signed": stranger.issue_cert("127.0.0.1"),
    }
    with ExitStack() as stack:
        ends = {name: _Ends.of(stack, folder / name, certificate) for name, certificate in certificates.items()}
        text = RIG + "".join(end.tables(name) for name, end in ends.items()) + synthetic("cam", 5, 'backend = "rig"')
        with Daemon(folder, text.replace("TRUST", 'ca_file = "ca.pem"')) as daemon:
            for name, end in ends.items():
                for who in end.who(name):
                    until(f"{who} tells of it", partial(_told, daemon, who, FAULTS[name]), 30)
                assert end.reached() == [], f"{name} was told something"
            _end(daemon)
        with Daemon(folder, text.replace("TRUST", "verify_tls = false")) as daemon:
            for name, end in ends.items():
                until(f"all of {name} are reached", partial(_count, end.reached, 3), 30)
                for who, port in zip(end.who(name), end.ports(), strict=True):
                    line = f"{who}: verify_tls = false: whoever answers for 127.0.0.1:{port} is believed"
                    assert line in daemon.log(), line
            _end(daemon)
    return {"kinds of certificates": 3, "kinds of clients": 3, "got through": 0}


class _Ends(NamedTuple):
    """The other ends that show one certificate."""

    hook: WebhookReceiver
    model: MisbehavingServer
    broker: Mosquitto

    @classmethod
    def of(cls, stack: ExitStack, folder: Path, certificate: trustme.LeafCert) -> "_Ends":
        """All three, listening."""
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(tls)
        folder.mkdir()
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
        broker = Mosquitto(folder, f"certfile {folder}/both.pem", f"keyfile {folder}/both.pem", "log_type all")
        return cls(
            stack.enter_context(WebhookReceiver(tls=tls)),
            stack.enter_context(MisbehavingServer(lambda _: status(404), tls)),
            stack.enter_context(broker),
        )

    def tables(self, name: str) -> str:
        """Who asks them."""
        retry = "TRUST\nretry = { min_s = 0.05, max_s = 0.5 }"
        return (
            f'\n[sinks.mqtt_{name}]\ntype = "mqtt"\nurl = "mqtts://127.0.0.1:{self.broker.port}"\n{retry}\n'
            + hook(f"hook_{name}", self.hook.url, retry)
            + f'\n[backends.far_{name}]\ntype = "roboflow"\nurl = "{self.model.url}"\nmodel_id = "a/1"\nTRUST\n'
            + "confidence = 0.1\n"
            + synthetic(f"far_{name}", 5, f'backend = "far_{name}"')
        )

    def who(self, name: str) -> list[str]:
        """How the log calls those who ask."""
        return [f"sink hook_{name}", f"backend far_{name}", f"sink mqtt_{name}"]

    def ports(self) -> list[int]:
        """Of the three, in the same order."""
        return [self.hook.port, self.model.port, self.broker.port]

    def reached(self) -> list[str]:
        """Which of the three were told something."""
        told = [name for name, end in (("hook", self.hook), ("model", self.model)) if end.asked]
        return told + ["broker"] * ("New client connected" in self.broker.log())


def _count(what: Callable[[], list[str]], number: int) -> bool:
    return len(what()) == number


def _end(daemon: Daemon) -> None:
    daemon.signal(signal.SIGTERM)
    assert daemon.process is not None
    daemon.process.wait(30)


def _asked(server: MisbehavingServer, times: int) -> bool:
    return len(server.asked) >= times


def _told(daemon: Daemon, who: str, fault: str) -> bool:
    return any(who in line and fault in line for line in daemon.log().splitlines())
