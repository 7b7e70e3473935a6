//! Of XML that says more than it may.

use super::*;
use proptest::prelude::*;

const ALL: Bounds = Bounds { operators: Operators::All, tensor_bytes: u64::MAX };

fn refused(xml: &str) -> String {
    refused_by(xml, ALL)
}

/// What is said of a model that is refused.
pub(super) fn refused_by(xml: &str, bounds: Bounds) -> String {
    scan(xml.as_bytes(), &[0; 100], bounds).expect_err(xml).text
}

#[test]
fn a_model_is_read() {
    let xml = "\u{feff}<?xml version=\"1.0\"?>\n<!-- <a> -->\n<net name='a>b' version=\"11\">
        <layers><layer id=\"0\" type=\"Const\" version=\"opset1\"><data element_type='f32' offset=\"60\" size=\"40\" /></layer></layers>
        <rt_info><![CDATA[<x>]]></rt_info></net>\n";
    assert_eq!(
        scan(xml.as_bytes(), &[0; 100], ALL),
        Ok(Scan { stateful: false, elements: 5, mended: None })
    );
}

#[test]
fn operators_with_a_state_are_noted() {
    for ty in ["ReadValue", "Assign", "readvalue"] {
        let xml =
            format!("<net><layers><layer id='0' type='{ty}' version='opset6'/></layers></net>");
        assert!(scan(xml.as_bytes(), &[], ALL).expect("a model").stateful);
    }
    assert!(
        refused(
            "<net><layers><layer id='0' type='&#82;eadValue' version='opset6'/></layers></net>"
        )
        .contains("without a plain type")
    );
}

#[test]
fn layers_are_held_to_the_list() {
    let model = |ty: &str, version: &str| {
        format!(
            "<net><layers><layer id='0' name='here' type='{ty}' version='{version}'/></layers></net>"
        )
    };
    let checked = |xml: &str| scan(xml.as_bytes(), &[], Bounds::default());
    assert!(checked(&model("ReLU", "opset1")).is_ok());
    for (ty, version) in [
        ("CTCLoss", "opset4"),
        ("ctcloss", "opset4"),
        ("Unheard", "opset1"),
        ("FullyConnected", "ie_internal_opset"),
        ("ReLU", "extension"),
        ("ReLU", ""),
    ] {
        let xml = model(ty, version);
        let refusal = checked(&xml).expect_err(ty);
        assert!(refusal.text.contains(&format!("{ty} (layer `here`)")), "{refusal}");
        assert!(scan(xml.as_bytes(), &[], ALL).is_ok());
    }
}

#[test]
fn weights_must_cover_every_constant() {
    let model = |offset: &str, size: &str| {
        format!("<net><layer><data offset='{offset}' size='{size}'/></layer></net>")
    };
    assert!(scan(model("60", "40").as_bytes(), &[0; 100], ALL).is_ok());
    assert_eq!(
        refused(&model("60", "41")),
        "the model's weights have 100 bytes, but its XML has a constant of 41 bytes at 60"
    );
    assert!(refused(&model("18446744073709551615", "2")).contains("has a constant of 2"));
    for odd in ["-1", "+1", " 1", "0x1", "1e1", "", "99999999999999999999"] {
        assert!(refused(&model(odd, "1")).contains("is not a number"), "{odd}");
    }
    assert!(refused("<net><data offset='0' offset='200' size='1'/></net>").contains("twice"));
}

#[test]
fn bombs_are_refused() {
    let deep = "<net>".repeat(100_000);
    assert!(refused(&deep).starts_with("the model's XML nests deeper than 64 elements"));
    let wide = format!("<net>{}</net>", "<a/>".repeat(MAX_ELEMENTS));
    assert_eq!(refused(&wide), "the model's XML has more than 1000000 elements");
    let long = format!("<net>{}</net>", " ".repeat(MAX_BYTES));
    assert!(refused(&long).ends_with("more than 33554432"));
    assert!(refused("<!DOCTYPE net [<!ENTITY a '&a;&a;'>]><net/>").contains("document type"));
}

#[test]
fn what_is_malformed_is_refused() {
    for xml in [
        "",
        "net",
        "<",
        "<net",
        "<net>",
        "</net>",
        "<net></nat>",
        "<net/><net/>",
        "<nat/>",
        "<net/>x",
        "<net a/>",
        "<net a=1/>",
        "<net a='1/>",
        "<net a='<'/>",
        "<net a='1'b='2'/>",
        "<net><!-- </net>",
        "<net><![CDATA[</net>",
        "<?xml",
        "<net/ >",
        "< net/>",
        "<net></ net>",
        "<net\0/>",
        "<1/>",
    ] {
        assert!(scan(xml.as_bytes(), &[], ALL).is_err(), "{xml}");
    }
    assert!(scan(b"<net>\xff</net>", &[], ALL).is_err());
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = scan(&bytes, &[0; 10], Bounds::default());
    }

    #[test]
    fn any_markup_comes_to_an_end(markup in "(<|>|/|net|data|layer|type|offset|size|=|'1'|\"2\"| |!--|--|\\?|x|\\[CDATA\\[){0,60}") {
        let _ = scan(markup.as_bytes(), &[0; 10], Bounds::default());
    }

    #[test]
    fn nesting_is_counted_exactly(depth in 1usize..200) {
        let xml = format!("<net>{}{}</net>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1));
        prop_assert_eq!(scan(xml.as_bytes(), &[], ALL).is_ok(), depth <= MAX_DEPTH);
    }
}
