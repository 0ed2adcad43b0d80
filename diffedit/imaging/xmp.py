"""XMP metadata: keep the properties that describe the photograph, drop those of the stored file.

Captions, keywords, creators and rights are still correct after an edit. Thumbnails, settings of raw
converters, histories, the orientation and the positions of other pictures in the file are not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_XMP = 60_000
"""Bytes that fit into one segment of a JPEG. Longer ones are dropped."""
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
META = "adobe:ns:meta/"
KEPT = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "cc": "http://creativecommons.org/ns#",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
}
"""Prefix -> namespace of the properties that are kept."""
DROPPED = ("Thumbnails", "History", "DocumentAncestors", "ICCProfile", "ColorMode", "TextLayers")
"""Properties of these namespaces that describe the file."""
PROLOGUE = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
EPILOGUE = b'<?xpacket end="w"?>'


def kept_xmp(data: bytes | str | None) -> bytes | None:
    """Return the part of an XMP packet that is still correct after an edit, or None.

    Args:
        data: the packet of the file. A damaged one is dropped.
    """
    text = data.encode() if isinstance(data, str) else data or b""
    if not text or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return None
    start, end = text.find(b"<"), text.rfind(b">") + 1
    try:
        root = ElementTree.fromstring(text[start:end])
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    descriptions = [
        e for e in root.iter(f"{{{RDF}}}Description") if e.get(f"{{{RDF}}}about") is not None
    ]
    return _packet([kept for d in descriptions if (kept := _kept(d)) is not None])


def _kept(description: Element) -> Element | None:
    """A description with the properties that are kept, or None."""
    about = f"{{{RDF}}}about"
    attributes = {name: v for name, v in description.attrib.items() if _is_kept(name)}
    children = [child for child in description if _is_kept(child.tag)]
    if not attributes and not children:
        return None
    kept = ElementTree.Element(f"{{{RDF}}}Description", {about: "", **attributes})
    kept.extend(children)
    return kept


def _is_kept(name: str) -> bool:
    namespace, _, local = name.removeprefix("{").partition("}")
    return namespace in KEPT.values() and local not in DROPPED


def _packet(descriptions: list[Element]) -> bytes | None:
    if not descriptions:
        return None
    _register()
    meta = ElementTree.Element(f"{{{META}}}xmpmeta")
    ElementTree.SubElement(meta, f"{{{RDF}}}RDF").extend(descriptions)
    packet = b"\n".join([PROLOGUE, ElementTree.tostring(meta, "utf-8"), EPILOGUE])
    return packet if len(packet) <= MAX_XMP else None


@functools.cache
def _register() -> None:
    """Let ElementTree write the usual prefixes."""
    for prefix, namespace in {"rdf": RDF, "x": META, **KEPT}.items():
        ElementTree.register_namespace(prefix, namespace)
