//! OpenMetrics as the older text format of Prometheus, which is what a scraper
//! reads that does not ask for the newer one, `curl` shows and `promtool check
//! metrics` checks. The two differ in three things: the names behind `# HELP`
//! and `# TYPE` are those of the samples, an `info` is a gauge, and there is
//! neither `# UNIT` nor `# EOF`.

/// Its media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Our own OpenMetrics, converted.
pub(super) fn text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    // Its kind comes behind the help, and decides on the name in both.
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kinds_and_comments_become_those_of_the_older_format() {
        let open = "# HELP a_build What it is.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
                    # HELP a_tasks Tasks.\n# TYPE a_tasks counter\na_tasks_total{how=\"x y\"} 2\n\
                    # HELP a_wait_seconds Time.\n# TYPE a_wait_seconds histogram\n\
                    # UNIT a_wait_seconds seconds\na_wait_seconds_sum 0.0\n# EOF\n";
        let expected = "# HELP a_build_info What it is.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
                        # HELP a_tasks_total Tasks.\n# TYPE a_tasks_total counter\na_tasks_total{how=\"x y\"} 2\n\
                        # HELP a_wait_seconds Time.\n# TYPE a_wait_seconds histogram\na_wait_seconds_sum 0.0\n";
        assert_eq!(text(open), expected);
    }
}
