// An OPC UA server that nobody here wrote (node-opcua), for the driver to be tried against.
//
//     node server.cjs PORT DIR [NAMESPACES]
//
// Listens on 127.0.0.1:PORT (0: any free port) without security and with every policy and mode it
// knows, lets in anybody, the user `test` with the password `secret`, and every user certificate,
// prints its endpoint when it is ready, and ends when its standard input does. DIR takes its key and
// certificate, and keeps them for the next one. NAMESPACES is how many foreign namespaces stand before
// the one of the nodes, whose index moves by as many. The nodes are those of
// asyncua_server.py, and below `Many` more than a client wants to be told at once.

"use strict";

const fs = require("fs");
const net = require("net");
const path = require("path");
const { OPCUAServer } = require("node-opcua-server");
const { DataType, Variant, VariantArrayType } = require("node-opcua-variant");
const { DataValue } = require("node-opcua-data-value");
const { StatusCodes } = require("node-opcua-status-code");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");

const values = require("./values.cjs");

const NAMESPACE = "urn:forebay:test";
const APPLICATION = "urn:forebay:test:node-opcua";

// 64-bit integers are [high, low] here.
const int64 = (value) => {
  const bits = BigInt.asUintN(64, value);
  return [Number(bits >> 32n), Number(bits & 0xffffffffn)];
};

// What has been measured at some moment, not now.
const MOMENT = new Date("2026-11-29T10:11:12.345Z");

const NODES = [
  ["Boolean", true, DataType.Boolean],
  ["SByte", -8, DataType.SByte],
  ["Byte", 200, DataType.Byte],
  ["Int16", -1600, DataType.Int16],
  ["UInt16", 65535, DataType.UInt16],
  ["Int32", -2147483648, DataType.Int32],
  ["UInt32", 4294967295, DataType.UInt32],
  ["Int64", int64(-9007199254740993n), DataType.Int64],
  ["UInt64", int64(9007199254740993n), DataType.UInt64],
  ["Float", 0.1, DataType.Float],
  ["Double", 21.3, DataType.Double],
  ["String", "Kessel läuft", DataType.String],
  ["LocalizedText", { locale: "de", text: "Halt" }, DataType.LocalizedText],
  ["Guid", "72962b91-fa75-4ae6-8d28-b404dc7daf63", DataType.Guid],
  ["DateTime", MOMENT, DataType.DateTime],
  ["Sick", 1.5, DataType.Double, StatusCodes.BadSensorFailure],
  ["Old", 2.5, DataType.Double, StatusCodes.UncertainLastUsableValue],
];

async function main() {
  const [wanted, folder, before] = process.argv.slice(2);
  const port = Number(wanted) || (await freePort());
  const keeper = (name) =>
    new OPCUACertificateManager({
      automaticallyAcceptUnknownCertificate: true,
      rootFolder: path.join(folder, name),
    });
  fs.mkdirSync(folder, { recursive: true });
  const server = new OPCUAServer({
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    port,
    resourcePath: "/plant",
    serverInfo: { applicationUri: APPLICATION, productUri: APPLICATION },
    securityPolicies: [
      SecurityPolicy.None,
      SecurityPolicy.Basic256Sha256,
      SecurityPolicy.Aes128_Sha256_RsaOaep,
      SecurityPolicy.Aes256_Sha256_RsaPss,
    ],
    securityModes: [
      MessageSecurityMode.None,
      MessageSecurityMode.Sign,
      MessageSecurityMode.SignAndEncrypt,
    ],
    allowAnonymous: true,
    userManager: { isValidUser: (name, password) => name === "test" && password === "secret" },
    serverCertificateManager: keeper("own"),
    userCertificateManager: keeper("users"),
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  for (let other = 0; other < Number(before || 0); other++) {
    space.registerNamespace(`urn:forebay:test:other:${other}`);
  }
  const own = space.registerNamespace(NAMESPACE);
  const scalars = own.addFolder(space.rootFolder.objects, { browseName: "Scalars" });
  const add = (name, dataType, value, statusCode = StatusCodes.Good, arrayType = VariantArrayType.Scalar) => {
    const node = own.addVariable({
      componentOf: scalars,
      browseName: name,
      nodeId: `s=${name}`,
      dataType,
      valueRank: arrayType === VariantArrayType.Scalar ? -1 : 1,
      minimumSamplingInterval: 0,
    });
    const told = new Variant({ dataType, arrayType, value });
    node.setValueFromSource(told, statusCode, MOMENT);
    return node;
  };
  for (const [name, value, dataType, status] of NODES) add(name, dataType, value, status);
  add("Array", DataType.Double, new Float64Array([1, 2]), StatusCodes.Good, VariantArrayType.Array);
  line(own, space.rootFolder.objects, Number(before || 0) ? "New" : "Flow");
  const breathe = await values.add(space, own, space.rootFolder.objects, Number(before || 0) > 0);
  const ticks = add("Ticks", DataType.UInt32, 0);
  const sessions = add("Sessions", DataType.UInt32, 0);
  const created = add("Created", DataType.UInt32, 0);

  await server.start();
  let count = 0;
  let ever = 0;
  server.on("create_session", () => ever++);
  const tick = setInterval(() => {
    const tell = (node, value) => node.setValueFromSource({ dataType: DataType.UInt32, value });
    tell(ticks, ++count);
    breathe(count);
    tell(sessions, server.currentSessionCount);
    tell(created, ever);
  }, 100);
  console.log(`opc.tcp://127.0.0.1:${port}/plant`);
  process.stdin.resume();
  process.stdin.on("end", async () => {
    clearInterval(tick);
    await server.shutdown(0);
    process.exit(0);
  });
}

function line(own, objects, changing) {
  const name = (id) => ({ browseName: id.split("/").pop(), nodeId: `s=${id}` });
  const variable = (where, parent, id, dataType, value, arrayType = VariantArrayType.Scalar) =>
    own.addVariable({
      ...name(id),
      [where]: parent,
      dataType,
      valueRank: arrayType === VariantArrayType.Scalar ? -1 : 1,
      value: new Variant({ dataType, arrayType, value }),
    });
  const root = own.addObject({ ...name("Line1"), organizedBy: objects, typeDefinition: "FolderType" });
  const press = own.addObject({ ...name("Line1/Press"), componentOf: root });
  variable("componentOf", press, "Line1/Press/Temperature", DataType.Double, 64.5);
  variable("componentOf", press, "Line1/Press/Running", DataType.Boolean, true);
  variable("componentOf", press, "Line1/Press/Mode", DataType.String, "läuft");
  variable("componentOf", press, `Line1/Press/${changing}`, DataType.Int32, 7);
  variable("propertyOf", press, "Line1/Press/Serial", DataType.String, "4711");
  const curve = new Float64Array([1, 2]);
  variable("componentOf", press, "Line1/Press/Curve", DataType.Double, curve, VariantArrayType.Array);
  const diagnostics = own.addObject({ ...name("Line1/Press/Diagnostics"), componentOf: press });
  variable("componentOf", diagnostics, "Line1/Press/Diagnostics/Uptime", DataType.UInt32, 5);
  for (const oven of ["Oven 1", "Oven-1"]) {
    const parent = own.addObject({ ...name(`Line1/${oven}`), componentOf: root });
    variable("componentOf", parent, `Line1/${oven}/Temperature`, DataType.Double, 210.5);
  }
  diagnostics.addReference({ referenceType: "Organizes", nodeId: root });
  const many = own.addObject({ ...name("Many"), organizedBy: objects, typeDefinition: "FolderType" });
  for (let number = 0; number < 1200; number++) {
    variable("componentOf", many, `Many/N${number}`, DataType.Int32, number);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = net.createServer();
    probe.on("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
