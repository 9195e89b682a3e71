"""agentnet.config: addresses, settings, where they come from, and what is said about wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentnet.config import SCHEMES, Address, NetworkConfig, is_loopback
from agentnet_core.config import COUNT_MAX
from agentnet_core.errors import ConfigError

FILES = {"certificate": "n.pem", "private_key": "n-key.pem", "ca": "ca.pem"}


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("tcp://127.0.0.1:7400", ("tcp", "127.0.0.1", 7400)),
            ("TCP://LocalHost:0", ("tcp", "localhost", 0)),
            ("tls://[::1]:65535", ("tls", "::1", 65535)),
            ("tls://[2001:DB8:0::1]:1", ("tls", "2001:db8::1", 1)),
            ("tls://[fe80::1%eth0]:1", ("tls", "fe80::1%eth0", 1)),
            ("tls://node_1.example.org:7400", ("tls", "node_1.example.org", 7400)),
        ],
    )
    def test_parse(self, text: str, expected: tuple[str, str, int]) -> None:
        address = Address.parse(text)
        assert (address.scheme, address.host, address.port) == expected
        assert Address.parse(str(address)) == address

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("127.0.0.1:7400", "expected SCHEME://HOST:PORT"),
            ("", "expected SCHEME://HOST:PORT"),
            ("udp://127.0.0.1:1", "unknown scheme 'udp', expected one of tcp, tls"),
            ("tcp://127.0.0.1", "the port is missing"),
            ("tcp://127.0.0.1:", "the port is missing"),
            ("tcp://[::1]", "the port is missing"),
            ("tcp://127.0.0.1:http", "port 'http', expected 0 to 65535"),
            ("tcp://127.0.0.1:65536", "port '65536', expected 0 to 65535"),
            ("tcp://127.0.0.1:-1", "port '-1', expected 0 to 65535"),
            ("tcp://127.0.0.1:\u0661", "expected 0 to 65535"),
            ("tcp://127.0.0.1:" + "9" * 5000, "expected 0 to 65535"),
            ("tcp://::1:7400", "an IPv6 address stands in brackets"),
            ("tcp://[::1:7400", "brackets hold an IPv6 address"),
            ("tcp://[localhost]:1", "brackets hold an IPv6 address"),
            ("tcp://[::1]7400", "expected :PORT after the bracket"),
            ("tcp://[1::2::3]:1", "is neither an IP address nor a host name"),
            ("tcp://:7400", "is neither an IP address nor a host name"),
            ("tcp://a b:1", "is neither an IP address nor a host name"),
            ("tcp://a..b:1", "is neither an IP address nor a host name"),
            ("tcp://user@host:1", "expected only HOST:PORT"),
            ("tcp://host:1/path", "expected only HOST:PORT"),
            ("tcp://127.0.0.1:1\n", "expected 0 to 65535"),
        ],
    )
    def test_what_is_wrong_is_said(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            Address.parse(text, "listen")
        assert str(caught.value).startswith("listen ")
        assert len(str(caught.value)) < 400

    @settings(deadline=None)
    @given(st.text(max_size=40))
    def test_any_text_is_an_address_or_a_config_error(self, text: str) -> None:
        for given_text in (text, f"tcp://{text}", f"tls://{text}:1"):
            try:
                address = Address.parse(given_text)
            except ConfigError as error:
                assert str(error).isprintable()
            else:
                assert Address.parse(str(address)) == address

    def test_other_types(self) -> None:
        with pytest.raises(ConfigError, match="expected SCHEME"):
            Address.parse(7400)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("127.0.0.1", True),
            ("127.255.0.9", True),
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("localhost", True),
            ("LOCALHOST.", True),
            ("0.0.0.0", False),
            ("::", False),
            ("::ffff:10.0.0.1", False),
            ("10.0.0.1", False),
            ("localhost.example.org", False),
        ],
    )
    def test_is_loopback(self, host: str, expected: bool) -> None:
        assert is_loopback(host) is expected


class TestSettings:
    def test_defaults(self) -> None:
        config = NetworkConfig()
        assert config.listen == ("tcp://127.0.0.1:0",)
        assert config.listen_addresses == (Address("tcp", "127.0.0.1", 0),)
        assert config.advertise_addresses == ()
        assert hash(config) == hash(NetworkConfig())

    @pytest.mark.parametrize(
        "listen", [["tcp://[::1]:1"], ("tcp://[::1]:1",), "tcp://[::1]:1", " tcp://[::1]:1 , "]
    )
    def test_lists_become_tuples(self, listen: list[str]) -> None:
        assert NetworkConfig(listen=listen).listen == ("tcp://[::1]:1",)

    @pytest.mark.parametrize("name", ["listen", "advertise"])
    @pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "[::]", "[2001:db8::1]"])
    def test_plaintext_beyond_loopback_says_what_to_type(self, name: str, host: str) -> None:
        addresses = [f"tcp://{host}:7400"]
        with pytest.raises(ConfigError) as caught:
            NetworkConfig(**{name: addresses})
        assert f"'tls://{host}:7400'" in str(caught.value)
        assert "plaintext=True" in str(caught.value)
        assert getattr(NetworkConfig(plaintext=True, **{name: addresses}), name) == tuple(addresses)

    def test_a_host_name_is_judged_when_it_is_used(self) -> None:
        assert NetworkConfig(listen=["tcp://node.example.org:1"]).listen

    def test_tls_needs_certificates(self) -> None:
        with pytest.raises(
            ConfigError, match=r"tls://\[::\]:1' needs certificate, private_key and ca.*certs init"
        ):
            NetworkConfig(listen=["tls://[::]:1"])
        assert NetworkConfig(listen=["tls://[::]:1"], **FILES).ca == "ca.pem"

    @pytest.mark.parametrize("missing", sorted(FILES))
    def test_all_three_or_none(self, missing: str) -> None:
        some = {name: value for name, value in FILES.items() if name != missing}
        with pytest.raises(ConfigError, match=f"without {missing}: all three"):
            NetworkConfig(**some)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"handler_threads": 0}, "handler_threads=0: expected an integer above 0"),
            ({"inactive_lag_ms": 299}, "inactive_lag_ms=299: expected at least 300"),
            (
                {"probe_interval_ms": 3001},
                "unreachable_ms_max=3000: expected at least probe_interval_ms=3001",
            ),
            ({"liveness_at": 65536}, "liveness_at=65536: expected 0 to 65535"),
            ({"liveness_at": True}, "liveness_at=True: expected 0 to 65535"),
            ({"events_max": True}, "events_max=True: expected an integer above 0"),
            ({"nodes_max": "many"}, "nodes_max='many': expected an integer above 0"),
            ({"events_max": COUNT_MAX + 1}, f"events_max={COUNT_MAX + 1}: expected at most {COUNT_MAX}"),
            ({"plaintext": "no"}, "plaintext='no': expected True or False"),
            ({"network": 5}, "network=5: expected a string"),
            ({"network": "a b"}, "network='a b': expected 1 to 64"),
            ({"listen": 7400}, "listen=7400: expected a list of addresses"),
            ({"listen": [7400]}, "listen=[7400]: expected a list of addresses"),
            ({"advertise": ["tcp://127.0.0.1:0"]}, "expected the port at which others reach this node"),
            ({"data_dir": ""}, "data_dir='': expected a path"),
            ({"certificate": 5}, "certificate=5: expected a path"),
        ],
    )
    def test_wrong_values(self, settings: dict[str, object], said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            NetworkConfig(**settings)

    def test_paths_become_strings(self, tmp_path: Path) -> None:
        assert NetworkConfig(data_dir=tmp_path).data_dir == str(tmp_path)


class TestLoad:
    def test_nothing_given(self) -> None:
        assert NetworkConfig.load(environ={"HOME": "/"}) == NetworkConfig()

    @pytest.mark.parametrize("head", ["", "[agentnet]\n"])
    def test_file_then_environment(self, tmp_path: Path, head: str) -> None:
        file = tmp_path / "node.toml"
        file.write_text(
            f'{head}network = "prod"\nlisten = ["tcp://127.0.0.1:1"]\nnodes_max = 9\nplaintext = true\n'
        )
        config = NetworkConfig.load(file, {})
        assert (config.network, config.nodes_max, config.plaintext) == ("prod", 9, True)
        environ = {
            "AGENTNET_LISTEN": "tcp://127.0.0.1:2, tcp://[::1]:3",
            "AGENTNET_NODES_MAX": "7",
            "AGENTNET_PLAINTEXT": "Off",
            "AGENTNET_DATA_DIR": "",
        }
        config = NetworkConfig.load(str(file), environ)
        assert config.listen == ("tcp://127.0.0.1:2", "tcp://[::1]:3")
        assert (config.network, config.nodes_max, config.plaintext) == ("prod", 7, False)
        assert config.data_dir is None

    def test_the_variable_that_names_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "node.toml").write_text('network = "prod"')
        assert NetworkConfig.load(environ={"AGENTNET_CONFIG": str(tmp_path / "node.toml")}).network == "prod"

    def test_other_tables_are_not_ours(self, tmp_path: Path) -> None:
        (tmp_path / "node.toml").write_text('[agentnet]\nnetwork = "prod"\n[app]\ncolour = "red"\n')
        assert NetworkConfig.load(tmp_path / "node.toml", {}).network == "prod"

    def test_paths_are_meant_from_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "node.toml").write_text(
            'certificate = "n.pem"\nprivate_key = "/etc/n-key.pem"\nca = "sub/ca.pem"\ndata_dir = "data"\n'
        )
        config = NetworkConfig.load(tmp_path / "node.toml", {})
        assert config.certificate == str(tmp_path / "n.pem")
        assert config.private_key == "/etc/n-key.pem"
        assert config.ca == str(tmp_path / "sub" / "ca.pem")
        assert config.data_dir == str(tmp_path / "data")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("lisen = []", "node.toml: 'lisen': unknown setting; the nearest that exists is listen"),
            ("[agentnet]\nhandler_thread = 1", "the nearest that exists is handler_threads"),
            ("[agentnets]\nnetwork = 'a'", "'agentnets': unknown setting"),
            ("agentnet = 1", "expected [agentnet] to be a table"),
            ("network = ", "is not TOML"),
            ("nodes_max = 'many'", "nodes_max='many': expected an integer above 0"),
            ("nodes_max = 1.5", "nodes_max=1.5: expected an integer above 0"),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "node.toml").write_text(text)
        with pytest.raises(ConfigError, match=re.escape(said)):
            NetworkConfig.load(tmp_path / "node.toml", {})

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            NetworkConfig.load(tmp_path / "node.toml", {})

    @pytest.mark.parametrize(
        ("variable", "text", "said"),
        [
            (
                "AGENTNET_LISTN",
                "",
                "'AGENTNET_LISTN': unknown setting; the nearest that exists is AGENTNET_LISTEN",
            ),
            ("AGENTNET_NODES_MAX", "x", "AGENTNET_NODES_MAX='x': expected an integer"),
            ("AGENTNET_PLAINTEXT", "maybe", "AGENTNET_PLAINTEXT='maybe': expected true or false"),
        ],
    )
    def test_wrong_variables(self, variable: str, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            NetworkConfig.load(environ={variable: text})

    def test_what_kubernetes_adds_for_a_service_called_agentnet_is_no_setting(self) -> None:
        names = (
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_LINK",
            "PORT",
            "PORT_7400_TCP",
            "PORT_7400_TCP_ADDR",
        )
        environ = {
            f"AGENTNET_{prefix}{name}": "tcp://10.0.0.1:7400" for name in names for prefix in ("", "SEED_1_")
        }
        assert NetworkConfig.load(environ=environ) == NetworkConfig()


def test_every_scheme_has_its_transport() -> None:
    from agentnet.transport import TRANSPORTS

    assert {scheme: transport.secure for scheme, transport in TRANSPORTS.items()} == SCHEMES
    assert all(transport.scheme == scheme for scheme, transport in TRANSPORTS.items())
