//! A running cluster of a platform, and who logs in to it.

use walwarden_tests::{Login, Platform, Postgres};

pub struct Live {
    pub platform: Platform,
    pub server: Postgres,
    pub login: Login,
}

impl Live {
    pub fn start(platform: Platform, major: u8) -> Self {
        let server = Postgres::start(major).expect("a server");
        let login = platform.prepare(&server).expect("the platform");
        Self { platform, server, login }
    }

    /// With an application in its database.
    pub fn filled(platform: Platform, major: u8) -> Self {
        let live = Self::start(platform, major);
        live.platform.fill(&live.server, &live.login).expect("the application");
        live
    }

    pub fn one(&self, query: &str) -> String {
        self.server.query_one(self.platform.database(), query).expect("an answer")
    }

    /// As its customer.
    pub fn run(&self, script: &str) {
        let script = format!("SET SESSION AUTHORIZATION {};\n{script}", self.login.role);
        self.server.run_sql(self.platform.database(), &script).expect("a script");
    }
}
