//! Pages as browsers and screen readers see them, read with an XML parser.

use super::*;

/// Asserts that a page is sound. The page is XML and neither runs nor loads anything. Every number in a drawing is a
/// number, and each class has a style. Each drawing has a caption and a table of its numbers.
pub(crate) fn assert_sound(page: &str) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(page, options).expect("the page is well-formed");
    let style = include_str!("page.css");
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            !["script", "link", "img", "iframe", "object", "a", "use", "image"].contains(&name),
            "<{name}>"
        );
        for attribute in node.attributes() {
            let (key, value) = (attribute.name(), attribute.value());
            assert!(
                !key.starts_with("on") && !["href", "src", "style", "srcset"].contains(&key),
                "{key}={value}"
            );
            if [
                "d", "points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height",
                "viewBox",
            ]
            .contains(&key)
            {
                assert!(!value.contains("NaN") && !value.contains("inf"), "<{name} {key}={value}>");
            }
            if key == "class" {
                for class in value.split_whitespace() {
                    let known =
                        style.contains(&format!(".{class} ")) || style.contains(&format!(".{class},"));
                    assert!(known || ["solid", "wide", "narrow"].contains(&class), "no style for {class}");
                }
            }
        }
        if name == "figure" {
            let has = |name: &str| {
                node.descendants()
                    .filter(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", name)))
                    .count()
            };
            assert_eq!((has("figcaption"), has("table"), has("details")), (1, 1, 1));
            let drawings = node.descendants().filter(|node| node.attribute("role") == Some("img"));
            let named =
                drawings.filter(|node| node.attribute("aria-label").is_some_and(|label| !label.is_empty()));
            assert_eq!(named.count(), 2, "a drawing for each width");
        }
    }
    assert!(!style.contains("url(") && !style.contains("@import"));
}

const NASTY: &str = "<script>alert(\"1\")</script> & 'quotes' ]]> \u{1b}\u{0}";

fn chart(marks: Vec<Mark>) -> Chart {
    Chart {
        x: Axis::new(NASTY, Unit::Seconds, Extent::Zero),
        y: Axis::new(NASTY, Unit::Milliseconds, Extent::Auto),
        marks,
    }
}

fn line(points: &[(f64, f64)]) -> Mark {
    let (tone, stroke) = (Tone::Blue, Stroke::Dotted);
    Mark::Line(Line {
        name: NASTY.to_owned(),
        label: "<p99>".to_owned(),
        tone,
        stroke,
        points: points.to_vec(),
    })
}

fn all_marks(values: &[f64]) -> Vec<Mark> {
    let pairs: Vec<(f64, f64)> = values.iter().map(|value| (*value, *value)).collect();
    let point = |value: &f64| Point {
        x: *value,
        y: *value,
        error: Some((-value, value * 2.0)),
        crossed: *value > 1.0,
        note: NASTY.to_owned(),
        hint: NASTY.to_owned(),
    };
    let points: Vec<Point> = values.iter().map(point).collect();
    let layer = |tone| Layer { name: NASTY.to_owned(), tone, values: values.to_vec() };
    let mut marks = vec![
        line(&pairs),
        Mark::Band(Band {
            name: NASTY.to_owned(),
            tone: Tone::Grey,
            points: values.iter().map(|value| (*value, value / 2.0, value * 2.0)).collect(),
        }),
        Mark::Points(Points { name: NASTY.to_owned(), tone: Tone::Green, faint: false, all: points.clone() }),
        Mark::Points(Points { name: NASTY.to_owned(), tone: Tone::Green, faint: true, all: points }),
        Mark::Stack(Stack { x: values.to_vec(), layers: vec![layer(Tone::Gold), layer(Tone::Purple)] }),
    ];
    for value in values {
        let (name, tone) = (NASTY.to_owned(), Tone::Orange);
        marks.push(Mark::Span(Span { name: name.clone(), tone, from: *value, to: value * 2.0 }));
        marks.push(Mark::Rule(Rule { name: name.clone(), tone, at: At::X(*value) }));
        marks.push(Mark::Rule(Rule { name, tone, at: At::Y(*value) }));
    }
    marks
}

fn page(drawing: Drawing, cell: Cell) -> String {
    let mut page = Page::new(NASTY, NASTY);
    page.lead(NASTY, NASTY);
    page.paragraph(NASTY);
    page.warning(NASTY, NASTY);
    page.verdict(true, NASTY, NASTY);
    page.verdict(false, NASTY, NASTY);
    page.code(NASTY);
    page.tiles(&[Tile {
        name: NASTY.to_owned(),
        unit: Unit::Milliseconds,
        value: f64::NAN,
        note: NASTY.to_owned(),
    }]);
    page.section(NASTY);
    let data = Table {
        caption: NASTY.to_owned(),
        columns: vec![Column::text(NASTY), Column::number(NASTY)],
        rows: vec![vec![Cell::text(NASTY), cell], vec![Cell::Nothing, Cell::Count(u64::MAX)]],
    };
    page.table(&data);
    page.section(NASTY);
    page.figure(&Figure { title: NASTY.to_owned(), caption: NASTY.to_owned(), drawing, data });
    page.finish(NASTY)
}

#[test]
fn no_text_becomes_markup() {
    let page = page(Drawing::Chart(chart(all_marks(&[1.0, 2.0, 3.0]))), Cell::Number(1.0));
    assert_sound(&page);
    assert!(!page.contains("<script") && !page.contains("& ") && !page.contains('\u{1b}'));
    assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;quotes&#39; ]]&gt;"));
    assert_eq!(
        page.matches("http").count(),
        page.matches("http-equiv").count() + page.matches("http://www.w3.org/").count()
    );
}

#[test]
fn any_numbers_make_a_sound_page() {
    let odd = [0.0, -1.0, 1e-300, 1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 7.0];
    assert_sound(&page(Drawing::Chart(chart(Vec::new())), Cell::Nothing));
    for first in odd {
        assert_sound(&page(Drawing::Chart(chart(all_marks(&[first]))), Cell::Number(first)));
        for second in odd {
            for extent in [Extent::Zero, Extent::Data, Extent::Log, Extent::Auto] {
                let mut chart = chart(all_marks(&[first, second, 2.0]));
                chart.x.extent = extent;
                chart.y.extent = extent;
                assert_sound(&page(Drawing::Chart(chart), Cell::Number(second)));
            }
            let row = Row { label: NASTY.repeat(9), values: vec![first, second], note: NASTY.to_owned() };
            let series = vec![("<one>", Tone::Blue), ("two", Tone::Grey)];
            let bars = Bars { unit: Unit::Percent, series, rows: vec![row.clone(), row] };
            assert_sound(&page(Drawing::Bars(bars), Cell::Number(first)));
        }
    }
    let bars = Bars { unit: Unit::Percent, series: Vec::new(), rows: Vec::new() };
    assert_sound(&page(Drawing::Bars(bars), Cell::Nothing));
}

#[test]
fn a_gap_is_no_line_and_a_value_between_gaps_is_a_dot() {
    let points =
        [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.5), (4.0, f64::NAN), (5.0, 1.0), (6.0, 1.0)];
    let svg = chart(vec![line(&points)]).svg("a", draw::Size::Wide);
    assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
    let path = svg.split("class=\"line").nth(1).expect("a line").split("d=\"").nth(1).expect("a path");
    let path = path.split('"').next().unwrap_or_default();
    assert_eq!((path.matches('M').count(), path.matches('L').count()), (3, 2), "{path}");
}

#[test]
fn marks_are_drawn_where_the_axis_says() {
    let marks = vec![line(&[(0.0, 0.0), (10.0, 100.0)])];
    let y = Axis::new("y", Unit::Count, Extent::Zero);
    let chart = Chart { x: Axis::new("x", Unit::Count, Extent::Data), y, marks };
    let svg = chart.svg("a", draw::Size::Narrow);
    // The last tick of each axis is at the last value, and the line ends at both.
    let path = svg.split("d=\"").nth(1).expect("a path").split('"').next().expect("an end");
    let (x, y) = path.rsplit_once('L').expect("a line").1.split_once(' ').expect("two places");
    assert!(svg.contains(&format!("y1=\"{y}\"")) && svg.contains(&format!("x1=\"{x}\"")), "{svg}");
}

#[test]
fn a_table_has_the_exact_numbers_beside_the_rounded_ones() {
    let page = page(Drawing::Chart(chart(Vec::new())), Cell::Number(12_345.678));
    assert!(page.contains("<data value=\"12345.678\">12,346</data>"));
}
