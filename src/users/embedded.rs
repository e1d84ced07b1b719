//! Users without a database, for a first try and for the tests.

use crate::users::{User, UserId, UserStore, UserStoreError};

/// Three users compiled into the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddedUsers;

const USERS: [(u64, &str, &str, u8); 3] = [
    (1, "Manas", "manas@example.com", 25),
    (2, "omkar", "omkar@example.com", 29),
    (3, "anand", "anand@example.com", 27),
];

impl UserStore for EmbeddedUsers {
    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        let found = USERS.iter().find(|(known, ..)| *known == id.get());
        Ok(found.map(|&(_, name, email, age)| User {
            id,
            name: name.to_owned(),
            email: email.to_owned(),
            age,
        }))
    }
}
