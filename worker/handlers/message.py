"""A mail message made from a job's payload."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from jobkit.handling import JobContext
from worker.handlers.fields import invalid, is_line, line, refuse_unknown, text

FIELDS = frozenset({"to", "subject", "body", "html", "from", "cc", "replyTo"})
MAX_RECIPIENTS = 100
MAX_ADDRESS = 320  # characters: 64 of mailbox, 255 of domain

# Deliberately narrow: quoted mailboxes and address literals are legal, unused, and the classic way past checks.
_ADDRESS = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[^\s@<>\"(),:;\\\[\]]{1,255}")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and its envelope. `default_sender` says that the job named none of its own; `international` that
    some address is not ASCII, which not every server takes."""

    message: EmailMessage
    sender: str
    recipients: tuple[str, ...]
    default_sender: bool
    international: bool


def compose(job: JobContext, from_address: str) -> Letter:
    """Raises Permanent(VALIDATION_ERROR), naming the field. The Message-ID is the job's, so that whoever receives
    a message twice can tell."""
    payload = job.payload
    refuse_unknown(payload, FIELDS)
    to, cc = _addresses(payload, "to"), _addresses(payload, "cc")
    if not to:
        raise invalid("payload.to", "must name a recipient")
    if len(to) + len(cc) > MAX_RECIPIENTS:
        raise invalid("payload.to", f"and cc name more than {MAX_RECIPIENTS} recipients")
    sender = _address("payload.from", from_address if payload.get("from") is None else payload["from"])
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = sender
    message["To"] = to
    if cc:
        message["Cc"] = cc
    if payload.get("replyTo") is not None:
        message["Reply-To"] = _address("payload.replyTo", payload["replyTo"])
    message["Subject"] = line(payload, "subject")
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{job.job_id}@{sender.domain}>"
    message.set_content(text(payload, "body"))
    if payload.get("html") is not None:
        message.add_alternative(text(payload, "html"), subtype="html")
    everyone = tuple(dict.fromkeys(address.addr_spec for address in (*to, *cc)))
    return Letter(
        message=message,
        sender=sender.addr_spec,
        recipients=everyone,
        default_sender=payload.get("from") is None,
        international=not "".join((sender.addr_spec, *everyone)).isascii(),
    )


def _addresses(payload: dict[str, Any], name: str) -> tuple[Address, ...]:
    value = payload.get(name)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(_address(f"payload.{name}", item) for item in items)


def _address(path: str, value: object) -> Address:
    """One address, `a@b` or `Name <a@b>`."""
    if not isinstance(value, str) or not is_line(value):
        raise invalid(path, "must be an address, or a list of them, without line breaks")
    bare = value.strip()
    name = ""
    if bare.endswith(">") and "<" in bare:
        name, _, bare = bare[:-1].rpartition("<")
    if len(bare) > MAX_ADDRESS or not _ADDRESS.fullmatch(bare):
        raise invalid(path, "must be an address like ann@example.com or Ann <ann@example.com>")
    mailbox, _, domain = bare.rpartition("@")
    try:
        # Servers without SMTPUTF8 take a foreign domain in its ASCII form; a mailbox has no such form.
        ascii_domain = domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        raise invalid(path, "must have a valid domain") from None
    return Address(display_name=name.strip().strip('"'), username=mailbox, domain=ascii_domain)
