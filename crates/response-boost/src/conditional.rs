//! Preconditions: whether a client needs the response at all (RFC 9110 §13), and the request headers of a load.

use std::time::SystemTime;

use headers::{HeaderMapExt as _, IfModifiedSince, IfUnmodifiedSince, LastModified};
use http::header::{
    CACHE_CONTROL, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, PRAGMA, RANGE,
};
use http::{HeaderMap, Method, StatusCode};

/// Fields that belong to one client's request. With them, a load would return a response that suits no other client
/// (RFC 9110 §13.1, §14.2; RFC 9111 §5.2.1, §5.4).
const OF_THE_CLIENT: [HeaderName; 8] = [
    CACHE_CONTROL,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PRAGMA,
    RANGE,
];

/// The preconditions of a request. A malformed field is ignored, as §13.1 requires for dates.
pub(crate) struct Preconditions {
    if_match: Option<Tags>,
    if_unmodified_since: Option<IfUnmodifiedSince>,
    if_none_match: Option<Tags>,
    if_modified_since: Option<IfModifiedSince>,
    /// The method is neither `GET` nor `HEAD`, so a match means 412 and not 304.
    is_other_method: bool,
}

impl Preconditions {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_other_method = ![Method::GET, Method::HEAD].contains(method);
        Self {
            is_other_method,
            if_match: Tags::of(headers, &IF_MATCH),
            if_unmodified_since: headers.typed_get(),
            if_none_match: Tags::of(headers, &IF_NONE_MATCH),
            // A recipient must ignore it beside `If-None-Match` and with other methods (§13.1.3).
            if_modified_since: if is_other_method || headers.contains_key(IF_NONE_MATCH) {
                None
            } else {
                headers.typed_get()
            },
        }
    }

    /// The status that replaces a 200 with these headers, in the order of §13.2.2: `None`, 304 or 412.
    pub(crate) fn status(&self, headers: &HeaderMap) -> Option<StatusCode> {
        let etag = headers.get(ETAG).map(HeaderValue::as_bytes).and_then(Tag::whole);
        let last_modified = || headers.typed_get::<LastModified>().map(SystemTime::from);
        let is_unmet = match &self.if_match {
            Some(tags) => !tags.matches(etag, same_strongly),
            None => self.if_unmodified_since.as_ref().is_some_and(|since| {
                last_modified().is_some_and(|changed| !since.precondition_passes(changed))
            }),
        };
        if is_unmet {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        let is_known = match &self.if_none_match {
            Some(tags) => tags.matches(etag, same_weakly),
            None => self.if_modified_since.as_ref().is_some_and(|since| {
                last_modified().is_some_and(|changed| !since.is_modified(changed))
            }),
        };
        is_known.then_some(if self.is_other_method {
            StatusCode::PRECONDITION_FAILED
        } else {
            StatusCode::NOT_MODIFIED
        })
    }
}

/// Removes the fields that belong to one client.
pub(crate) fn make_canonical(headers: &mut HeaderMap) {
    for name in &OF_THE_CLIENT {
        headers.remove(name);
    }
}

/// The lines of a field that lists entity tags.
struct Tags(Vec<HeaderValue>);

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Copy)]
struct Tag<'a> {
    is_weak: bool,
    opaque: &'a [u8],
}

impl Tags {
    /// `None`: the field is absent or malformed.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let lines: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
        let can_be_read = |line: &HeaderValue| is_any(line) || each(line, |_| ()).is_some();
        (!lines.is_empty() && lines.iter().all(can_be_read)).then_some(Self(lines))
    }

    /// Whether one of them matches the response's tag. `*` matches any response (§13.1.1, §13.1.2).
    fn matches(&self, etag: Option<Tag<'_>>, is_same: fn(Tag<'_>, Tag<'_>) -> bool) -> bool {
        self.0.iter().any(|line| {
            let mut found = is_any(line);
            each(line, |tag| found |= etag.is_some_and(|etag| is_same(etag, tag)));
            found
        })
    }
}

fn is_any(line: &HeaderValue) -> bool {
    line.as_bytes().trim_ascii() == b"*"
}

/// Calls `see` with each tag of a list, whose elements may be empty (§5.6.1.2). `None`: the list is malformed.
fn each(line: &HeaderValue, mut see: impl FnMut(Tag<'_>)) -> Option<()> {
    let mut rest = line.as_bytes().trim_ascii();
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(b",") {
            rest = next.trim_ascii_start();
            continue;
        }
        let (tag, after) = Tag::parse(rest)?;
        see(tag);
        rest = after.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
    Some(())
}

impl<'a> Tag<'a> {
    /// Splits a tag from the rest of the text.
    fn parse(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let quoted = text.strip_prefix(b"W/");
        let is_weak = quoted.is_some();
        let quoted = quoted.unwrap_or(text).strip_prefix(b"\"")?;
        let end = quoted.iter().position(|&byte| byte == b'"')?;
        let (opaque, after) = (&quoted[..end], &quoted[end + 1..]);
        opaque.iter().all(|&byte| byte > b' ').then_some((Self { is_weak, opaque }, after))
    }

    fn whole(text: &'a [u8]) -> Option<Self> {
        Self::parse(text).filter(|(_, after)| after.is_empty()).map(|(tag, _)| tag)
    }
}

/// The two comparisons of RFC 9110 §8.8.3.2.
fn same_strongly(one: Tag<'_>, other: Tag<'_>) -> bool {
    !one.is_weak && !other.is_weak && one.opaque == other.opaque
}

fn same_weakly(one: Tag<'_>, other: Tag<'_>) -> bool {
    one.opaque == other.opaque
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    #[track_caller]
    fn assert_status(asked: &[(HeaderName, &str)], response: &HeaderMap, expected: Option<u16>) {
        let status = Preconditions::of(&Method::GET, &headers(asked)).status(response);
        assert_eq!(status.map(|status| status.as_u16()), expected, "{asked:?} {response:?}");
    }

    #[test]
    fn each_is_evaluated_in_the_order_of_rfc_9110() {
        let strong = headers(&[(ETAG, "\"a\""), (http::header::LAST_MODIFIED, CHANGED)]);
        let weak = headers(&[(ETAG, "W/\"a\"")]);
        let bare = HeaderMap::new();
        for (asked, response, expected) in [
            // §13.1.1: compared strongly.
            (&[(IF_MATCH, "\"a\"")][..], &strong, None),
            (&[(IF_MATCH, "\"b\", \"a\"")], &strong, None),
            (&[(IF_MATCH, "*")], &strong, None),
            (&[(IF_MATCH, "*")], &bare, None),
            (&[(IF_MATCH, "\"b\"")], &strong, Some(412)),
            (&[(IF_MATCH, "W/\"a\"")], &strong, Some(412)),
            (&[(IF_MATCH, "\"a\"")], &weak, Some(412)),
            (&[(IF_MATCH, "\"a\"")], &bare, Some(412)),
            // §13.1.2: compared weakly.
            (&[(IF_NONE_MATCH, "\"a\"")], &strong, Some(304)),
            (&[(IF_NONE_MATCH, "W/\"a\"")], &strong, Some(304)),
            (&[(IF_NONE_MATCH, "\"a\"")], &weak, Some(304)),
            (&[(IF_NONE_MATCH, "*")], &bare, Some(304)),
            (&[(IF_NONE_MATCH, "\"b\"")], &strong, None),
            (&[(IF_NONE_MATCH, "\"A\"")], &strong, None),
            (&[(IF_NONE_MATCH, "\"a\"")], &bare, None),
            // §5.6.1.2: empty elements, and several lines.
            (&[(IF_NONE_MATCH, "\"a\",")], &strong, Some(304)),
            (&[(IF_NONE_MATCH, ", ,\"b\" ,, \"a\"")], &strong, Some(304)),
            (&[(IF_NONE_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")], &strong, Some(304)),
            (&[(IF_NONE_MATCH, "")], &strong, None),
            (&[(IF_NONE_MATCH, ",")], &strong, None),
            // A malformed list is ignored.
            (&[(IF_NONE_MATCH, "a")], &strong, None),
            (&[(IF_NONE_MATCH, "\"a\" \"b\"")], &strong, None),
            (&[(IF_NONE_MATCH, "\"a\"x")], &strong, None),
            (&[(IF_NONE_MATCH, "\"a")], &strong, None),
            (&[(IF_NONE_MATCH, "w/\"a\"")], &strong, None),
            (&[(IF_MATCH, "b")], &strong, None),
            // §13.1.3: not beside If-None-Match, whatever that says.
            (&[(IF_MODIFIED_SINCE, BEFORE)], &strong, None),
            (&[(IF_MODIFIED_SINCE, CHANGED)], &strong, Some(304)),
            (&[(IF_MODIFIED_SINCE, AFTER)], &strong, Some(304)),
            (&[(IF_MODIFIED_SINCE, AFTER)], &weak, None),
            (&[(IF_MODIFIED_SINCE, "yesterday")], &strong, None),
            (&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, AFTER)], &strong, None),
            (&[(IF_NONE_MATCH, "x"), (IF_MODIFIED_SINCE, AFTER)], &strong, None),
            // §13.1.4: not beside If-Match.
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], &strong, Some(412)),
            (&[(IF_UNMODIFIED_SINCE, CHANGED)], &strong, None),
            (&[(IF_UNMODIFIED_SINCE, AFTER)], &strong, None),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], &weak, None),
            (&[(IF_UNMODIFIED_SINCE, "yesterday")], &strong, None),
            (&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)], &strong, None),
            // §13.2.2: preconditions that give a 412 come first, then those that give a 304.
            (&[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")], &strong, Some(412)),
            (&[(IF_MATCH, "\"a\""), (IF_NONE_MATCH, "\"a\"")], &strong, Some(304)),
            (&[(IF_UNMODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, AFTER)], &strong, Some(304)),
            (&[], &strong, None),
        ] {
            assert_status(asked, response, expected);
        }
    }

    #[test]
    fn a_method_that_is_not_get_or_head_never_gets_a_304() {
        let response = headers(&[(ETAG, "\"a\""), (http::header::LAST_MODIFIED, CHANGED)]);
        for (asked, expected) in [
            // §13.1.2, §13.2.2 step 3.
            ((IF_NONE_MATCH, "\"a\""), Some(412)),
            ((IF_NONE_MATCH, "*"), Some(412)),
            ((IF_NONE_MATCH, "\"b\""), None),
            // §13.1.3: ignored.
            ((IF_MODIFIED_SINCE, AFTER), None),
            ((IF_MATCH, "\"b\""), Some(412)),
            ((IF_UNMODIFIED_SINCE, BEFORE), Some(412)),
        ] {
            for (method, is_other) in
                [(Method::POST, true), (Method::GET, false), (Method::HEAD, false)]
            {
                let asked = headers(std::slice::from_ref(&asked));
                let status = Preconditions::of(&method, &asked).status(&response);
                let status = status.map(|status| status.as_u16());
                if is_other {
                    assert_eq!(status, expected, "{asked:?}");
                } else {
                    assert!(status != Some(412) || !asked.contains_key(IF_NONE_MATCH));
                }
            }
        }
    }

    #[test]
    fn what_is_a_clients_own_does_not_reach_a_load() {
        let mut asked = headers(&[
            (IF_MATCH, "\"a\""),
            (IF_NONE_MATCH, "\"a\""),
            (IF_MODIFIED_SINCE, AFTER),
            (IF_UNMODIFIED_SINCE, AFTER),
            (IF_RANGE, "\"a\""),
            (RANGE, "bytes=0-1"),
            (CACHE_CONTROL, "no-cache"),
            (PRAGMA, "no-cache"),
            (http::header::ACCEPT, "text/html"),
        ]);
        make_canonical(&mut asked);
        assert_eq!(asked, headers(&[(http::header::ACCEPT, "text/html")]));
    }
}
