"""A writer of small PDFs: pages of lines in Helvetica, and a title in plain text or in hexadecimal."""

from __future__ import annotations


def pdf(*pages: str | None, title: str = "") -> bytes:
    """A PDF with these pages; a page without text has none, and None is a page that is not there."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        if page is None:
            kids.append("999 0 R")
            continue
        shown = "".join(f"({_escaped(line)}) Tj 0 -14 Td " for line in page.split("\n") if line)
        stream = f"BT /F1 12 Tf 72 720 Td {shown}ET" if page else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        resources = "<< /Font << /F1 3 0 R >> >>"
        contents = f"/Contents {len(objects)} 0 R /Resources {resources}"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {contents} >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title {title if title.startswith('<') else f'({_escaped(title)})'} >>")
    made, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(made))
        made += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    start = len(made)
    made += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n"
    return made.encode("latin-1")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
