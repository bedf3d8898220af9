"""A certificate for the servers of tests: only who is handed it trusts it."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.processes import HOST


class Certificate(NamedTuple):
    """The files of a key and of what it has signed for itself."""

    key: Path
    public: Path

    @property
    def arguments(self) -> list[str]:
        """For uvicorn's command line."""
        return ["--ssl-keyfile", str(self.key), "--ssl-certfile", str(self.public)]

    def trust(self) -> ssl.SSLContext:
        """For a client that believes in nothing else."""
        return ssl.create_default_context(cafile=self.public)


def make_certificate(folder: Path) -> Certificate:
    """Make one for 127.0.0.1, good from yesterday to tomorrow."""
    made = Certificate(folder / "key.pem", folder / "certificate.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return made
