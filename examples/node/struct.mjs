// google.protobuf.Struct as proto-loader shows it, to and from plain objects.

export function toStruct(object) {
  return { fields: Object.fromEntries(Object.entries(object).map(([key, item]) => [key, toValue(item)])) };
}

export function fromStruct(struct) {
  return Object.fromEntries(Object.entries(struct.fields).map(([key, item]) => [key, fromValue(item)]));
}

function toValue(item) {
  if (item === null || item === undefined) return { nullValue: "NULL_VALUE" };
  if (typeof item === "boolean") return { boolValue: item };
  if (typeof item === "number") return { numberValue: item };
  if (typeof item === "string") return { stringValue: item };
  if (Array.isArray(item)) return { listValue: { values: item.map(toValue) } };
  return { structValue: toStruct(item) };
}

// `kind` is what proto-loader's `oneofs: true` adds: the name of the field that is set.
function fromValue(value) {
  switch (value.kind) {
    case "structValue":
      return fromStruct(value.structValue);
    case "listValue":
      return value.listValue.values.map(fromValue);
    case "nullValue":
      return null;
    default:
      return value[value.kind];
  }
}
