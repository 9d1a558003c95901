"""An OPC UA server that nobody here wrote (asyncua), for the driver to be tried against.

    asyncua_server.py PORT DIR [NAMESPACES]
    asyncua_server.py certificate DIR

Listens on 127.0.0.1:PORT (0: any free port) without security and with every policy and mode, lets
in anybody, the user `test` with the password `secret`, and every user certificate, prints its endpoint when it is ready, and
ends when its standard input does. DIR takes its key and certificate, and keeps
them for the next one. NAMESPACES is how many foreign namespaces stand before the one of the nodes,
whose index moves by as many, and where there are any, `Line1` has `New` instead of `Flow`. The second
form only makes key and certificate.

`s=Sessions` is how many sessions there are now, `s=Created` how many there ever were. Below `Scalars`
stands one node of each type, below `Line1` what a line of machines may look like, with a way back to its
beginning, below `Values` arrays and structures.
"""

import asyncio
import datetime
import ipaddress
import pathlib
import socket
import sys
import uuid

import asyncua_values
from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMESPACE = "urn:forebay:test"
APPLICATION = "urn:forebay:test:asyncua"
# What has been measured at some moment, not now.
MOMENT = datetime.datetime(2026, 11, 29, 10, 11, 12, 345678)

# One scalar of each type, as `s=NAME`. What cannot be a reading is here, too.
NODES = [
    ("Boolean", True, ua.VariantType.Boolean),
    ("SByte", -8, ua.VariantType.SByte),
    ("Byte", 200, ua.VariantType.Byte),
    ("Int16", -1600, ua.VariantType.Int16),
    ("UInt16", 65535, ua.VariantType.UInt16),
    ("Int32", -2147483648, ua.VariantType.Int32),
    ("UInt32", 4294967295, ua.VariantType.UInt32),
    ("Int64", -9007199254740993, ua.VariantType.Int64),
    ("UInt64", 9007199254740993, ua.VariantType.UInt64),
    ("Float", 0.1, ua.VariantType.Float),
    ("Double", 21.3, ua.VariantType.Double),
    ("String", "Kessel läuft", ua.VariantType.String),
    ("LocalizedText", ua.LocalizedText("Halt", "de"), ua.VariantType.LocalizedText),
    ("Guid", uuid.UUID("72962b91-fa75-4ae6-8d28-b404dc7daf63"), ua.VariantType.Guid),
    ("DateTime", MOMENT, ua.VariantType.DateTime),
    ("Array", [1.0, 2.0], ua.VariantType.Double),
]


class Users(UserManager):
    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username == "test" and password == "secret"):
            return User(role=UserRole.User, name=username or "anonymous")
        return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder):
    key_path, certificate_path = folder / "server-key.pem", folder / "server-cert.der"
    if key_path.exists() and certificate_path.exists():
        return key_path, certificate_path
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "asyncua for tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(APPLICATION),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=True,
                key_encipherment=True,
                data_encipherment=True,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    return key_path, certificate_path


async def line(objects, index, changing):
    def name(text):
        return ua.NodeId(text, index), ua.QualifiedName(text.rsplit("/", 1)[-1], index)

    root = await objects.add_folder(*name("Line1"))
    press = await root.add_object(*name("Line1/Press"))
    await press.add_variable(*name("Line1/Press/Temperature"), ua.Variant(64.5, ua.VariantType.Double))
    await press.add_variable(*name("Line1/Press/Running"), ua.Variant(True, ua.VariantType.Boolean))
    await press.add_variable(*name("Line1/Press/Mode"), ua.Variant("läuft", ua.VariantType.String))
    await press.add_variable(*name(f"Line1/Press/{changing}"), ua.Variant(7, ua.VariantType.Int32))
    await press.add_property(*name("Line1/Press/Serial"), ua.Variant("4711", ua.VariantType.String))
    await press.add_variable(*name("Line1/Press/Curve"), ua.Variant([1.0, 2.0], ua.VariantType.Double))
    diagnostics = await press.add_object(*name("Line1/Press/Diagnostics"))
    await diagnostics.add_variable(*name("Line1/Press/Diagnostics/Uptime"), ua.Variant(5, ua.VariantType.UInt32))
    for oven in ("Oven 1", "Oven-1"):
        oven = await root.add_object(*name(f"Line1/{oven}"))
        temperature = f"{oven.nodeid.Identifier}/Temperature"
        await oven.add_variable(*name(temperature), ua.Variant(210.5, ua.VariantType.Double))
    await diagnostics.add_reference(root, ua.ObjectIds.Organizes)


async def main():
    port, folder = int(sys.argv[1]) or free_port(), pathlib.Path(sys.argv[2])
    key_path, certificate_path = make_certificate(folder)
    server = Server(user_manager=Users())
    await server.init()
    endpoint = f"opc.tcp://127.0.0.1:{port}/plant"
    server.set_endpoint(endpoint)
    await server.set_application_uri(APPLICATION)
    await server.load_certificate(str(certificate_path))
    await server.load_private_key(str(key_path))
    # The first that encrypts is what passwords without a channel are encrypted by.
    first = [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
    server.set_security_policy(first + [each for each in ua.SecurityPolicyType if each not in first])
    foreign = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    for other in range(foreign):
        await server.register_namespace(f"urn:forebay:test:other:{other}")
    index = await server.register_namespace(NAMESPACE)
    folder_node = await server.nodes.objects.add_folder(index, "Scalars")
    for name, value, kind in NODES:
        node = await folder_node.add_variable(
            ua.NodeId(name, index), ua.QualifiedName(name, index), ua.Variant(value, kind)
        )
        await node.write_value(ua.DataValue(ua.Variant(value, kind), SourceTimestamp=MOMENT))
    ticks = await folder_node.add_variable(
        ua.NodeId("Ticks", index), ua.QualifiedName("Ticks", index), ua.Variant(0, ua.VariantType.UInt32)
    )
    counts = {}
    for name in ("Sessions", "Created"):
        counts[name] = await folder_node.add_variable(
            ua.NodeId(name, index), ua.QualifiedName(name, index), ua.Variant(0, ua.VariantType.UInt32)
        )
    for name, value, status in [
        ("Sick", 1.5, ua.StatusCodes.BadSensorFailure),
        ("Old", 2.5, ua.StatusCodes.UncertainLastUsableValue),
    ]:
        node = await folder_node.add_variable(
            ua.NodeId(name, index), ua.QualifiedName(name, index), ua.Variant(value, ua.VariantType.Double)
        )
        told = ua.Variant(value, ua.VariantType.Double)
        await node.write_value(ua.DataValue(told, ua.StatusCode(status), SourceTimestamp=MOMENT))
    await line(server.nodes.objects, index, "New" if foreign else "Flow")
    tick = await asyncua_values.add(server, index, bool(foreign))
    async with server:
        before = InternalSession._counter
        print(endpoint, flush=True)
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        count = 0
        while not ended.done():
            await asyncio.wait({ended}, timeout=0.1)
            count += 1
            await ticks.write_value(ua.Variant(count, ua.VariantType.UInt32))
            await tick(count)
            now = {
                "Sessions": len(server.iserver._external_sessions),
                "Created": InternalSession._counter - before,
            }
            for name, node in counts.items():
                await node.write_value(ua.Variant(now[name], ua.VariantType.UInt32))


if sys.argv[1] == "certificate":
    make_certificate(pathlib.Path(sys.argv[2]))
else:
    asyncio.run(main())
