"""Answer spans: what a question can ask for, found by tags; invented sentences."""

import pytest

from memo_dist.synthesis.spans import answer_spans


def found(text):
    return {span.text: span.kind for span in answer_spans(text)}


@pytest.mark.parametrize(
    ("sentence", "text", "kind"),
    [
        ("The pump ran for twelve years without a fault.", "twelve years", "number"),
        ("The lamp shows E7 when the filter is full.", "E7", "code"),
        ("In all, 86.4 million litres were lifted.", "86.4 million litres", "number"),
        ("In all, 86.4 million litres were lifted.", "86.4 million", "number"),
        ("The bridge cost $4.5 million to build.", "$4.5 million", "number"),
        ("Losses fell by 12 % in the north.", "12 %", "number"),
        ("The council met on 3 May 1926 in Garrow.", "3 May 1926", "date"),
        ("The council met on 3 May 1926 in Garrow.", "Garrow", "name"),
        ("Ada Moss's sister joined the Board of Tarn Works.", "Board of Tarn Works", "name"),
        ("Ada Moss's sister joined the Board of Tarn Works.", "Ada Moss", "name"),
        ("Set max_retries before the first start.", "max_retries", "code"),
        ("The firm is run by Ada Moss and Rob Pell.", "Ada Moss and Rob Pell", "name"),
        ("The mill sells yarn, paper and rope.", "yarn, paper and rope", "noun"),
        ("Turn the key to open valve 3 slowly.", "valve 3", "noun"),
        ("The inspector found a cracked drive belt.", "drive belt", "noun"),
        ("The tower (built of grey slate) still stands.", "grey slate", "noun"),
    ],
)
def test_what_people_ask_for_is_a_span(sentence, text, kind):
    assert found(sentence)[text] == kind


@pytest.mark.parametrize(
    ("sentence", "junk"),
    [
        ("Of the patients, 40 showed symptoms.", "40 showed"),
        ("1. Close the lid.\n2. Press the green button.", "1"),
        ("Steps 1 and 2 take long.", "1 and"),
        ("It is one of them.", "one"),
        ("They saw the others.", "others"),
    ],
)
def test_what_nobody_asks_for_is_none(sentence, junk):
    assert junk not in found(sentence)


def test_offsets_point_at_the_text_and_each_span_comes_once():
    text = (
        "The old mill burned.\n\n- The mill\n  was rebuilt in 1926.\n- Rob Pell\n  paid 340 crowns."
    )
    spans = answer_spans(text)
    assert [" ".join(text[s.start : s.end].split()) for s in spans] == [s.text for s in spans]
    assert [s.text.casefold() for s in spans].count("mill") == 1
    assert {"1926", "340 crowns", "Rob Pell"} <= {s.text for s in spans}
    assert answer_spans("") == []
    assert answer_spans(text) == spans
