"""Who a node is across restarts: an incarnation that rises, a network that is kept, one process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from networks import Cluster, active, echo, node_process, soon, until

from agentnet import ConfigError, Event, HandshakeRefused, JoinFailed
from agentnet.identity import FILE, NodeIdentity, load_identity
from agentnet_core.errors import OutageError


def load(folder: str | None, node_id: str, network: str, seed: int | None = None) -> NodeIdentity:
    return load_identity(folder, node_id, network, time.time_ns() if seed is None else seed)


class TestKept:
    def test_without_a_directory_nothing_is_kept_and_it_rises(self) -> None:
        seen = []
        for _ in range(3):
            identity = load(None, "n1", "default")
            identity.keep(b"x" * 16)
            identity.close()
            seen.append(identity.incarnation)
        assert seen == sorted(set(seen))
        assert load(None, "n1", "default").network_uuid == b""

    def test_the_network_and_a_rising_incarnation(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "deep" / "data")
        first = load(folder, "n1", "default")
        uuid = first.new_uuid(Random())
        assert len(uuid) == 16
        first.keep(uuid)
        first.close()
        second = load(folder, "n1", "default")
        assert second.incarnation > first.incarnation
        assert second.network_uuid == second.new_uuid(Random()) == uuid
        second.close()

    def test_it_rises_when_the_clock_went_back(self, tmp_path: Path) -> None:
        load(str(tmp_path), "n1", "default").close()
        before = json.loads((tmp_path / FILE).read_text())["incarnation"]
        identity = load(str(tmp_path), "n1", "default", 1000)
        identity.close()
        assert identity.incarnation == before + 1
        # Also when the process ended before it had joined anything.
        again = load(str(tmp_path), "n1", "default", 1000)
        again.close()
        assert again.incarnation == before + 2

    def test_another_nodes_directory(self, tmp_path: Path) -> None:
        load(str(tmp_path), "n1", "default").close()
        kept = (tmp_path / FILE).read_text()
        for node_id, network in (("n2", "default"), ("n1", "staging")):
            with pytest.raises(ConfigError, match="give each node a data_dir of its own"):
                load(str(tmp_path), node_id, network)
        assert (tmp_path / FILE).read_text() == kept
        load(str(tmp_path), "n1", "default").close()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "{}",
            '{"node_id": "n1", "network": "default"}',
            '{"node_id": "n1", "network": "default", "incarnation": "x", "network_uuid": ""}',
            '{"node_id": "n1", "network": "default", "incarnation": 1, "network_uuid": "zz"}',
            '{"node_id": "n1", "network": "default", "incarnation": 1, "network_uuid": "abcd"}',
            '{"node_id": "n1", "network": "default", "incarnation": -5, "network_uuid": ""}',
            '{"node_id": "n1", "network": "default", "incarnation": 1e99, "network_uuid": ""}',
            '{"node_id": "n1", "network": "default", "incarnation": 9999999999999999999, "network_uuid": ""}',
        ],
    )
    def test_damage_is_told_and_never_overwritten(self, tmp_path: Path, text: str) -> None:
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ConfigError, match="is damaged .*: restore it, or give an empty data_dir"):
            load(str(tmp_path), "n1", "default")
        assert (tmp_path / FILE).read_text() == text

    def test_not_text_at_all(self, tmp_path: Path) -> None:
        (tmp_path / FILE).write_bytes(os.urandom(100) + b"\xff")
        with pytest.raises(ConfigError, match="is damaged"):
            load(str(tmp_path), "n1", "default")

    def test_a_half_written_file_is_ignored(self, tmp_path: Path) -> None:
        load(str(tmp_path), "n1", "default").close()
        (tmp_path / FILE).with_suffix(".new").write_text("{half")
        load(str(tmp_path), "n1", "default").close()

    def test_a_directory_that_cannot_be(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("x")
        with pytest.raises(ConfigError, match="data_dir="):
            load(str(file / "data"), "n1", "default")
        with pytest.raises(ConfigError, match="data_dir="):
            load(str(file), "n1", "default")

    async def test_a_disk_that_fails(
        self, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fails)
        net = cluster.make("n1", data_dir=str(tmp_path))
        with pytest.raises(OutageError, match=r"node.json cannot be written: .*No space left") as caught:
            await net.join_network([])
        assert caught.value.definite
        monkeypatch.undo()
        load(str(tmp_path), "n1", "default").close()

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        held = load(str(tmp_path), "n1", "default")
        with pytest.raises(ConfigError, match="is in use by another process"):
            load(str(tmp_path), "n1", "default")
        code = (
            "from agentnet.identity import load_identity; "
            f"load_identity({str(tmp_path)!r}, 'n1', 'default', 1)"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=False)
        assert b"is in use by another process" in found.stderr
        held.close()
        held.close()
        load(str(tmp_path), "n1", "default").close()


class TestNodes:
    async def test_a_founder_comes_back_to_its_network(self, cluster: Cluster, tmp_path: Path) -> None:
        settings = {"data_dir": str(tmp_path), "redial_ms_max": 100}
        (one,) = await cluster.start("n1", **settings)
        two = cluster.make("n2", redial_ms_max=100)
        await soon(two.join_network(one.addresses))
        uuid = one.control.network_uuid
        before = {member.node_id: member.incarnation for member in two.members()}
        await one.leave_network()
        again = cluster.make("n1", **settings)
        await soon(again.join_network([]))  # as it was started the first time
        assert again.control.network_uuid == uuid
        await two.leave_network()
        three = cluster.make("n2")
        await soon(three.join_network(again.addresses))
        assert {m.node_id: m.incarnation > before[m.node_id] for m in three.members()} == {
            "n1": True,
            "n2": True,
        }

    async def test_a_killed_node_comes_back_as_a_new_incarnation(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        (one,) = await cluster.start("n1")
        watch = cluster.watch(one)
        settings = {"listen": "tcp://127.0.0.1:0", "data_dir": str(tmp_path)}
        incarnations = []
        for _ in range(2):
            async with node_process("n2", one.addresses, **settings) as process:
                await until(lambda: set(active(one)) == {"n1", "n2"} and one.agents("echo"))
                (member,) = [member for member in one.members() if member.node_id == "n2"]
                incarnations.append(member.incarnation)
                seen = len(watch.of(Event.LINK_LOST))
                process.process.kill()
                await until(lambda seen=seen: len(watch.of(Event.LINK_LOST)) > seen)
        assert incarnations == sorted(set(incarnations))

    async def test_a_member_of_another_network_of_that_name(self, cluster: Cluster, tmp_path: Path) -> None:
        (one,) = await cluster.start("n1")
        two = cluster.make("n2", data_dir=str(tmp_path))
        await soon(two.join_network(one.addresses))
        await two.leave_network()
        await one.leave_network()
        other = cluster.make("n1")
        await other.join_network([])
        back = cluster.make("n2", data_dir=str(tmp_path), join_ms_max=2000)
        with pytest.raises((HandshakeRefused, JoinFailed), match="two networks are named 'default'"):
            await soon(back.join_network(other.addresses))

    async def test_the_directory_is_free_after_a_failed_join(self, cluster: Cluster, tmp_path: Path) -> None:
        (one,) = await cluster.start("n1")
        for _ in range(2):
            net = cluster.make("n2", data_dir=str(tmp_path), listen=one.addresses[0])
            with pytest.raises(Exception, match="in use"):
                await soon(net.join_network([]))
        net = cluster.make("n2", data_dir=str(tmp_path))
        await soon(net.join_network(one.addresses))
        await net.register_agent("x", handler=echo)
        assert await one.request("x", b"y") == b"y"
