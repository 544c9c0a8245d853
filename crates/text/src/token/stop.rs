//! Stop strings in a stream of text, wherever the borders of its pieces lie.

/// Lets text through up to the first stop string, and holds back what may become one.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// What a piece of text leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Text to print.
    pub text: String,
    /// The stop string that was met; nothing is printed from there on.
    pub stop: Option<String>,
}

impl StopStrings {
    /// Empty stop strings are left out.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> StopStrings {
        let stops = stops.into_iter().map(Into::into).filter(|s: &String| !s.is_empty()).collect();
        StopStrings { stops, held: String::new(), stopped: false }
    }

    /// Adds a piece of text. Of several stop strings the one that begins first wins, then the longest.
    pub fn push(&mut self, text: &str) -> Stopped {
        if self.stopped {
            return Stopped { text: String::new(), stop: None };
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|s| Some((self.held.find(s.as_str())?, s)));
        if let Some((at, stop)) = found.min_by_key(|(at, s)| (*at, usize::MAX - s.len())) {
            let stop = stop.clone();
            self.held.truncate(at);
            self.stopped = true;
            return Stopped { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Stopped { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// What was held back, when no more text comes.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `stop` without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let (text, stop) = (text.as_bytes(), stop.as_bytes());
    (1..=longest).rev().find(|&n| text[text.len() - n..] == stop[..n]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], pieces: &[&str], want: &str, want_stop: Option<&str>) {
        let mut filter = StopStrings::new(stops.iter().copied());
        let (mut out, mut met) = (String::new(), None);
        for piece in pieces {
            let step = filter.push(piece);
            out += &step.text;
            met = met.or(step.stop);
        }
        out += &filter.flush();
        assert_eq!((out.as_str(), met.as_deref()), (want, want_stop), "{stops:?} {pieces:?}");
    }

    #[test]
    fn stops_are_met_across_borders_and_nothing_else_is_lost() {
        check(&["</s>"], &["a<", "/", "s", ">b"], "a", Some("</s>"));
        check(&["</s>"], &["a<", "/", "x"], "a</x", None);
        check(&["</s>"], &["a<", "/"], "a</", None);
        check(&["aab"], &["a", "a", "a", "b", "c"], "a", Some("aab"));
        check(&["b", "ab"], &["xa", "b"], "x", Some("ab"));
        check(&["ab", "abc"], &["abc"], "", Some("abc"));
        check(&["é!"], &["é", "é", "!"], "é", Some("é!"));
        check(&["", "\n\n"], &["a\n", "b\n", "\nc"], "a\nb", Some("\n\n"));
        check(&[], &["abc"], "abc", None);
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_stop() {
        let mut filter = StopStrings::new(["STOP"]);
        for (piece, want) in [("x S", "x "), ("T", ""), ("A", "STA"), ("STO", ""), ("STOS", "STOSTO")] {
            assert_eq!(filter.push(piece).text, want, "{piece}");
        }
    }
}
