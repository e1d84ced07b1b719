//! The body of a response from the cache.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::NotStored;

/// The body of a response: stored bytes, or the inner service's body as it arrives.
pub struct CachedBody<B: Body> {
    /// Frames that have already arrived.
    ready: VecDeque<Frame<Bytes>>,
    /// The rest of the body. It is boxed, so that a body that has been polled can be moved on.
    rest: Rest<B>,
}

enum Rest<B: Body> {
    Nothing,
    Body(Pin<Box<B>>),
    /// The body failed here.
    Failure(B::Error),
}

/// The result of reading a body in order to store it.
pub(crate) enum Collected<B: Body> {
    /// The whole body of a response that is fresh for this long.
    Whole(Bytes, Duration),
    /// The response is not stored, for this reason.
    Passed(CachedBody<B>, NotStored),
    /// The body failed with this error, so the load failed.
    BrokeOff(CachedBody<B>, String),
}

impl<B: Body> CachedBody<B> {
    pub(crate) fn empty() -> Self {
        Self { ready: VecDeque::new(), rest: Rest::Nothing }
    }

    /// The service's own body.
    pub(crate) fn passed(body: B) -> Self {
        Self { ready: VecDeque::new(), rest: Rest::Body(Box::pin(body)) }
    }
}

impl<B: Body> From<Bytes> for CachedBody<B> {
    fn from(bytes: Bytes) -> Self {
        let mut body = Self::empty();
        if !bytes.is_empty() {
            body.ready.push_back(Frame::data(bytes));
        }
        body
    }
}

/// Reads the body of a response that is fresh for `ttl` to its end, or until it exceeds `at_most_bytes`.
pub(crate) async fn collect<B>(body: B, ttl: Duration, at_most_bytes: usize) -> Collected<B>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let mut body = Box::pin(body);
    let (mut ready, mut bytes) = (VecDeque::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(failure) => {
                let reason = failure.to_string();
                let rest = Rest::Failure(failure);
                return Collected::BrokeOff(CachedBody { ready, rest }, reason);
            }
        };
        let length = frame.data_ref().map(Bytes::len);
        ready.push_back(frame);
        bytes = bytes.saturating_add(length.unwrap_or_default());
        let why = match length {
            None => NotStored::Trailers,
            Some(_) if bytes > at_most_bytes => NotStored::TooLarge,
            Some(_) => continue,
        };
        return Collected::Passed(CachedBody { ready, rest: Rest::Body(body) }, why);
    }
    Collected::Whole(joined(ready, bytes), ttl)
}

/// The data of these frames, joined. A single frame, the usual case, is not copied.
fn joined(frames: VecDeque<Frame<Bytes>>, bytes: usize) -> Bytes {
    let mut data = frames.into_iter().filter_map(|frame| frame.into_data().ok());
    let Some(first) = data.next() else { return Bytes::new() };
    if first.len() == bytes {
        return first;
    }
    let mut joined = BytesMut::with_capacity(bytes);
    joined.extend_from_slice(&first);
    data.for_each(|data| joined.extend_from_slice(&data));
    joined.freeze()
}

impl<B: Body<Data = Bytes>> Body for CachedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Rest::Body(body) = &mut self.rest else {
            return Poll::Ready(match std::mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::Failure(failure) => Some(Err(failure)),
                _ => None,
            });
        };
        Poll::Ready(ready!(body.as_mut().poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty()
            && match &self.rest {
                Rest::Nothing => true,
                Rest::Body(body) => body.is_end_stream(),
                Rest::Failure(_) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let ready =
            self.ready.iter().filter_map(|frame| Some(frame.data_ref()?.len() as u64)).sum();
        let mut hint = match &self.rest {
            Rest::Nothing => SizeHint::with_exact(0),
            Rest::Body(body) => body.size_hint(),
            Rest::Failure(_) => SizeHint::new(),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(ready));
        }
        hint.set_lower(hint.lower().saturating_add(ready));
        hint
    }
}

// `B` is pinned on the heap.
impl<B: Body> Unpin for CachedBody<B> {}

impl<B: Body> fmt::Debug for CachedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;

    use super::*;

    /// A body that arrives in these parts.
    pub(crate) struct Parts(VecDeque<Result<&'static str, &'static str>>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            let part = self.0.pop_front();
            Poll::Ready(part.map(|part| part.map(|text| Frame::data(text.into()))))
        }
    }

    pub(crate) fn parts(parts: &[Result<&'static str, &'static str>]) -> Parts {
        Parts(parts.iter().copied().collect())
    }

    async fn passed<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Vec<Result<Bytes, B::Error>> {
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.map(|frame| frame.into_data().unwrap()));
        }
        seen
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_collected() {
        for (body, whole) in
            [(&[][..], ""), (&[Ok("ab")], "ab"), (&[Ok("a"), Ok(""), Ok("bc")], "abc")]
        {
            let whole_of = collect(parts(body), Duration::ZERO, 3).await;
            let Collected::Whole(bytes, _) = whole_of else { panic!("{whole}") };
            assert_eq!(bytes, whole);
        }
    }

    #[tokio::test]
    async fn a_larger_body_streams_on_from_its_beginning() {
        let body = parts(&[Ok("ab"), Ok("cd"), Ok("e")]);
        let Collected::Passed(body, NotStored::TooLarge) = collect(body, Duration::ZERO, 3).await
        else {
            panic!("it is larger")
        };
        assert_eq!(body.size_hint().lower(), 4);
        assert_eq!(passed(body).await, ["ab", "cd", "e"].map(|text| Ok(text.into())));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_so_for_the_client_too() {
        let body = parts(&[Ok("ab"), Err("cut off"), Ok("c")]);
        let Collected::BrokeOff(body, reason) = collect(body, Duration::ZERO, 9).await else {
            panic!("cut off")
        };
        assert_eq!(reason, "cut off");
        assert!(!body.is_end_stream());
        assert_eq!(passed(body).await, [Ok("ab".into()), Err("cut off")]);
    }

    #[tokio::test]
    async fn stored_bytes_say_how_long_they_are() {
        let body: CachedBody<Full<Bytes>> = Bytes::from_static(b"abc").into();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
        let seen: Vec<Result<Bytes, Infallible>> = passed(body).await;
        assert_eq!(seen, [Ok("abc".into())]);
        assert!(CachedBody::<Full<Bytes>>::empty().is_end_stream());
    }
}
