"""What of a protocol must never change, as lines that can be compared and reviewed."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def protocol_lines(descriptor: FileDescriptor) -> list[str]:
    """One line a field and one a call: names, numbers, types, whether repeated, whether presence is known."""
    lines = [line for message in descriptor.message_types_by_name.values() for line in _message_lines(message)]
    for service in descriptor.services_by_name.values():
        for method in service.methods:
            answer = f"{'stream ' if method.server_streaming else ''}{method.output_type.full_name}"
            asked = f"{'stream ' if method.client_streaming else ''}{method.input_type.full_name}"
            lines.append(f"rpc {service.full_name}.{method.name}({asked}) returns ({answer})")
    return sorted(lines)


def _message_lines(message) -> list[str]:
    lines = [line for nested in message.nested_types for line in _message_lines(nested)]
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else _TYPES[field.type]
        words = ["repeated"] * field.is_repeated + ["presence"] * field.has_presence
        inside = field.containing_oneof
        words += [f"oneof {inside.name}"] if inside is not None and not inside.name.startswith("_") else []
        lines.append(" ".join([f"{message.full_name}.{field.name} = {field.number} {kind}", *words]))
    return lines
