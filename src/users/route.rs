//! The route of a request, by its path.

use lambda_http::Request;
use percent_encoding::percent_decode_str;

use super::{InvalidUserId, UserId};

/// The route of a request.
///
/// The path alone decides it: many routes have a path parameter named `id` (`/orders/{id}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/users/{id}`, with the parsed id.
    User(Result<UserId, InvalidUserId>),
    /// Any other path.
    Unknown,
}

impl Route {
    /// The route that [`routed`] has attached, otherwise parsed from the path.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or_else(|| Self::parse(request.uri().path()))
    }

    /// The id is a whole segment, which must be split off before it is decoded (RFC 3986 §2.4).
    fn parse(path: &str) -> Self {
        match path.strip_prefix("/users/").filter(|id| !id.contains('/')) {
            Some(id) => {
                let id = percent_decode_str(id).decode_utf8();
                Self::User(id.map_err(|_| InvalidUserId).and_then(|id| UserId::parse(&id)))
            }
            None => Self::Unknown,
        }
    }

    /// The requested user; `None` for another path or an invalid id.
    #[must_use]
    pub fn user(self) -> Option<UserId> {
        match self {
            Self::User(id) => id.ok(),
            Self::Unknown => None,
        }
    }

    /// The route as a pattern; `None` for an unknown path.
    #[must_use]
    pub fn pattern(self) -> Option<&'static str> {
        match self {
            Self::User(_) => Some("/users/{id}"),
            Self::Unknown => None,
        }
    }
}

/// Attaches its [`Route`] to a request, so that later layers need not parse the path again.
#[must_use]
pub fn routed(mut request: Request) -> Request {
    let route = Route::of(&request);
    request.extensions_mut().insert(route);
    request
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lambda_http::RequestExt as _;

    use super::*;

    fn request(path: &str) -> Request {
        let mut request = Request::default();
        *request.uri_mut() = path.parse().unwrap();
        request
    }

    #[test]
    fn the_path_alone_names_a_user() {
        let user = |text| Route::User(UserId::parse(text));
        for (path, route) in [
            ("/users/1", user("1")),
            ("/users/%31", user("1")),
            ("/users/", user("")),
            ("/users/1%2F", user("1/")),
            ("/users/%FF", Route::User(Err(InvalidUserId))),
            ("/orders/2", Route::Unknown),
            ("/users", Route::Unknown),
            ("/users/1/", Route::Unknown),
            ("//users/1", Route::Unknown),
        ] {
            let parameters = HashMap::from([("id".to_owned(), "2".to_owned())]);
            let request = request(path).with_path_parameters(parameters);
            assert_eq!(Route::of(&request), route, "{path}");
        }
    }

    #[test]
    fn a_path_is_parsed_once() {
        let mut request = routed(request("/users/1"));
        *request.uri_mut() = "/orders/2".parse().unwrap();
        assert_eq!(Route::of(&routed(request)).user(), UserId::parse("1").ok());
    }
}
