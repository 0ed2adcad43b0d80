"""XMP: captions, keywords and rights are kept, the description of the stored file is dropped."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from diffedit.imaging import encode, photograph
from diffedit.imaging.encode import EXTENSIONS, EncodeOptions
from diffedit.imaging.photograph import Photograph
from diffedit.imaging.xmp import kept_xmp
from tests.imaging.pictures import noise, saved

PACKET = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
 xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
 tiff:Orientation="6" crs:Exposure2012="+1.5" photoshop:Credit="Ada" photoshop:ColorMode="3"
 xmp:Rating="4">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">K\xc3\xb6ln</rdf:li></rdf:Alt></dc:title>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">CC BY 4.0</rdf:li></rdf:Alt></dc:rights>
<dc:subject><rdf:Bag><rdf:li>cup</rdf:li></rdf:Bag></dc:subject>
<xmp:Thumbnails><rdf:Alt><rdf:li>/9j/4AAQ</rdf:li></rdf:Alt></xmp:Thumbnails>
<xmpMM:History><rdf:Seq><rdf:li>saved</rdf:li></rdf:Seq></xmpMM:History>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
KEPT = ("K\xf6ln", "CC BY 4.0", "cup", "Ada", 'Rating="4"')
DROPPED = ("Orientation", "Exposure", "4AAQ", "History", "ColorMode")


def reopened(photo: Photograph, file_format: encode.FileFormat) -> Image.Image:
    return Image.open(io.BytesIO(encode.encode(photo, file_format)))


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("target", sorted(set(EXTENSIONS.values())))
def test_captions_and_rights_are_kept(source: str, target: encode.FileFormat) -> None:
    options = {"tiffinfo": {700: PACKET}} if source == "TIFF" else {"xmp": PACKET}
    if source == "PNG":
        plain = photograph.read(noise(20, 30))
        data = encode.encode(plain, "PNG", EncodeOptions(xmp=PACKET.decode()))
    else:
        data = saved(noise(20, 30), source, **options)
    photo = photograph.read(data)
    assert photo.warnings == ()
    result = reopened(photo, target)
    packet = result.info["xmp"]
    text = packet if isinstance(packet, str) else packet.decode()
    assert all(word in text for word in KEPT)
    assert not any(word in text for word in DROPPED)
    assert photograph.read(encode.encode(photo, target)).metadata.xmp == photo.metadata.xmp


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        b"<x:xmpmeta",
        b"\xff\xfe\x00",
        PACKET.replace(b"<rdf:Description", b"<!ENTITY a 'b'><rdf:Description"),
        b"<a/>",
        PACKET.replace(b"cup", b"c" * 70_000),
    ],
)
def test_what_cannot_be_kept_is_dropped(packet: bytes | None) -> None:
    assert kept_xmp(packet) is None


def test_iptc_alone_is_said() -> None:
    """PIL cannot write it."""
    iptc = b"\x1c\x02\x78\x00\x03cup"
    resource = b"8BIM\x04\x04\x00\x00" + len(iptc).to_bytes(4, "big") + iptc
    segment = b"Photoshop 3.0\x00" + resource
    marker = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
    data = saved(noise(20, 30), "JPEG")
    (warning,) = photograph.read(data[:2] + marker + data[2:]).warnings
    assert "IPTC" in warning
    data = saved(noise(20, 30), "JPEG", xmp=PACKET)
    assert photograph.read(data[:2] + marker + data[2:]).warnings == ()
