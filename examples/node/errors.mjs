// Rich errors: what a server of selfheal says beyond a code and a sentence, as google.rpc.Status in a trailer.
import path from "node:path";
import protobuf from "protobufjs";

export function errorReader(protoRoots) {
  const root = new protobuf.Root();
  root.resolvePath = (_, target) => {
    const home = target.startsWith("google/rpc/") ? protoRoots.thirdParty : null;
    return home === null ? target : path.join(home, target);
  };
  root.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], { keepCase: false });
  const Status = root.lookupType("google.rpc.Status");

  // {status, details: {"google.rpc.ErrorInfo": {...}, ...}}; null where the answer carries none.
  return function readError(error) {
    const [raw] = error.metadata?.get("grpc-status-details-bin") ?? [];
    if (!raw) return null;
    const status = Status.decode(raw);
    const details = {};
    for (const any of status.details) {
      const name = any.type_url.split("/").pop();
      const type = root.lookup(name, [protobuf.Type]);
      if (type) details[name] = type.toObject(type.decode(any.value));
    }
    return { status, details };
  };
}
