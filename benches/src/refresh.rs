//! How long clients wait while entries expire: with refreshes after the reply, and with refreshes inside requests.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::functions::{Places, event, with_dynamodb};
use crate::lambda::{Lambda, PATIENCE, Program, Turn};
use crate::peers::{DynamoDb, Redis};
use crate::report::{Table, millis, quantile, time};
use crate::{Result, say};

/// How long a load takes.
const LATENCY: Duration = Duration::from_millis(300);
const TTL: Duration = Duration::from_secs(2);
/// How long past its TTL an entry may be served, in seconds.
const WINDOW_SECONDS: &str = "60";
const DURATION: Duration = Duration::from_mins(1);
/// When the store begins to fail, counted from the start, and for how long.
const OUTAGE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// How many invocations have too little time for their refresh, and how many environments share them.
const CUT_OFF: usize = 10_000;
const CUT_OFF_ENVIRONMENTS: usize = 100;
/// How much time such an invocation has: the least that Lambda allows.
const TIME_LEFT: Duration = Duration::from_secs(1);
/// How long a load takes that is cut off.
const TOO_LONG: Duration = Duration::from_secs(2);

/// The cases: the values of `CACHE_REFRESH`, and a control in which no entry expires, to show what the machine itself
/// does.
const INLINE: &str = "inline";
const AFTER_REPLY: &str = "after-reply";
const NOTHING_EXPIRES: &str = "(nothing expires)";

pub(crate) struct Refreshes {
    expiries: Vec<Expiry>,
    outage: Outage,
    cut_off: CutOff,
}

#[derive(Clone, Copy)]
struct Case {
    environments: usize,
    per_second: u32,
}

const CASES: [Case; 3] = [
    Case { environments: 1, per_second: 2 },
    Case { environments: 6, per_second: 20 },
    Case { environments: 60, per_second: 60 },
];

/// The measurements of a case.
struct Expiry {
    case: Case,
    refresh: &'static str,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    /// From the event to the reply: for hits, and for all other replies.
    hits: Vec<Duration>,
    others: Vec<Duration>,
    /// From the reply until the environment requested its next event.
    until_next: Vec<Duration>,
    /// How many replies did not contain the user, and how many invocations failed.
    wrong: usize,
    function_errors: usize,
    /// How many events were due while no environment was idle.
    delayed: usize,
    /// When the store was called, counted from the start.
    lookups: Vec<Duration>,
    lasted: Duration,
}

struct Outage {
    seen: Seen,
    /// The lookups during the outage.
    attempts: usize,
    shortest_gap: Duration,
}

struct CutOff {
    seen: Seen,
    /// From an event until its environment requested the next one.
    longest: Duration,
    /// How many loads started.
    loads: usize,
}

pub(crate) fn refreshes(places: &Places) -> Result<Refreshes> {
    let mut expiries = Vec::new();
    for case in CASES {
        for refresh in [NOTHING_EXPIRES, INLINE, AFTER_REPLY] {
            say(&format!("refreshes: {}, {refresh}", case.name()));
            let seen = drive(places, case, refresh, None)?;
            expiries.push(Expiry { case, refresh, seen });
        }
    }
    say("refreshes: the store fails");
    let seen = drive(places, CASES[1], AFTER_REPLY, Some(OUTAGE))?;
    let outage = Outage::new(seen);
    say("refreshes: cut off");
    let cut_off = cut_off(places)?;
    Ok(Refreshes { expiries, outage, cut_off })
}

fn program(places: &Places, redis: &Redis, dynamodb: &DynamoDb) -> Program {
    with_dynamodb(places.ours(&redis.url()), &dynamodb.url)
        .with("CACHE_TTL_SECONDS", TTL.as_secs().to_string())
        .with("CACHE_STALE_WHILE_REVALIDATE_SECONDS", WINDOW_SECONDS)
        // On Lambda each environment has a processor. Here they share a few, so replies are late although Redis is
        // fast.
        .with("REDIS_CONNECT_TIMEOUT_MS", "10000")
        .with("REDIS_RESPONSE_TIMEOUT_MS", "10000")
        .with("WARM_UP", "true")
}

/// Requests one user at a steady rate. Each event goes to an idle environment, as on Lambda.
fn drive(
    places: &Places,
    case: Case,
    refresh: &str,
    outage: Option<(Duration, Duration)>,
) -> Result<Seen> {
    let (redis, dynamodb) = (Redis::start()?, DynamoDb::start(None)?);
    dynamodb.set_latency(LATENCY);
    let program = program(places, &redis, &dynamodb);
    let program = match refresh {
        NOTHING_EXPIRES => program.with("CACHE_TTL_SECONDS", "86400"),
        _ => program.with("CACHE_REFRESH", refresh),
    };
    let mut lambda = Lambda::idle(&program, case.environments)?;
    let mut environments = Environments::new(case.environments);
    let event = event(1)?;

    // The first miss, which is not measured.
    let mut first = Seen::default();
    environments.give(&mut lambda, &event, PATIENCE)?;
    while environments.are_busy() {
        environments.take_turns(&mut lambda, PATIENCE, &mut first)?;
    }
    dynamodb.take_lookups();

    let mut seen = Seen::default();
    let interval = Duration::from_secs(1) / case.per_second;
    let started = Instant::now();
    let mut due = started;
    loop {
        let now = Instant::now();
        if let Some((begins, lasts)) = outage {
            dynamodb.set_down((begins..begins + lasts).contains(&(now - started)));
        }
        let is_over = now - started >= DURATION;
        if is_over && !environments.are_busy() {
            break;
        }
        let mut patience = Duration::from_millis(100);
        if now >= due && !is_over {
            if environments.give(&mut lambda, &event, PATIENCE)? {
                seen.delayed += usize::from(now - due > interval);
                due += interval;
                continue;
            }
        } else if !is_over {
            patience = patience.min(due - now);
        }
        environments.take_turns(&mut lambda, patience, &mut seen)?;
    }
    seen.lookups = dynamodb.take_lookups().into_iter().map(|at| at - started).collect();
    seen.lasted = started.elapsed();
    Ok(seen.sorted())
}

/// Serves stale entries while a load from the store takes longer than the time that the invocation has left.
fn cut_off(places: &Places) -> Result<CutOff> {
    let (redis, dynamodb) = (Redis::start()?, DynamoDb::start(None)?);
    let program = program(places, &redis, &dynamodb)
        // The first entry must still be in its window when all entries are stored.
        .with("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "3600");
    let mut lambda = Lambda::idle(&program, CUT_OFF_ENVIRONMENTS)?;
    let mut environments = Environments::new(CUT_OFF_ENVIRONMENTS);
    let events = (1..=CUT_OFF as u64).map(event).collect::<Result<Vec<_>>>()?;
    let mut ask_all = |time_left| -> Result<Seen> {
        let mut seen = Seen::default();
        for event in &events {
            while !environments.give(&mut lambda, event, time_left)? {
                environments.take_turns(&mut lambda, PATIENCE, &mut seen)?;
            }
        }
        while environments.are_busy() {
            environments.take_turns(&mut lambda, PATIENCE, &mut seen)?;
        }
        Ok(seen)
    };
    ask_all(PATIENCE)?;
    std::thread::sleep(TTL);
    dynamodb.take_lookups();
    dynamodb.set_latency(TOO_LONG);
    let seen = ask_all(TIME_LEFT)?;
    let loads = dynamodb.take_lookups().len();
    Ok(CutOff { seen: seen.sorted(), longest: environments.longest, loads })
}

/// Which environments are idle, and when the others got their events.
struct Environments {
    idle: VecDeque<usize>,
    given: Vec<Option<(Instant, Duration)>>,
    answered: Vec<Option<Instant>>,
    /// The longest time from an event until its environment requested the next one, among invocations with little time.
    longest: Duration,
}

impl Environments {
    fn new(count: usize) -> Self {
        let (given, answered) = (vec![None; count], vec![None; count]);
        Self { idle: (0..count).collect(), given, answered, longest: Duration::ZERO }
    }

    fn are_busy(&self) -> bool {
        self.idle.len() < self.given.len()
    }

    /// Gives an event to an idle environment, if one is idle.
    fn give(&mut self, lambda: &mut Lambda, event: &[u8], time_left: Duration) -> Result<bool> {
        let Some(number) = self.idle.pop_front() else { return Ok(false) };
        let given = lambda.give_within(number, event, time_left)?;
        (self.given[number], self.answered[number]) = (Some((given, time_left)), None);
        Ok(true)
    }

    fn take_turns(
        &mut self,
        lambda: &mut Lambda,
        patience: Duration,
        seen: &mut Seen,
    ) -> Result<()> {
        let turns = lambda.turns(patience)?;
        if turns.is_empty() && patience == PATIENCE {
            return Err("an environment does not answer".into());
        }
        for (number, turn) in turns {
            let (given, time_left) = self.given[number].ok_or("a turn without an event")?;
            match turn {
                Turn::Answered(at, reply) => {
                    self.answered[number] = Some(at);
                    let reply = String::from_utf8_lossy(&reply);
                    let is_user = reply.contains(r#""statusCode":200"#) && reply.contains("Manas");
                    seen.wrong += usize::from(!is_user);
                    let is_hit = reply.contains("; hit; ");
                    (if is_hit { &mut seen.hits } else { &mut seen.others }).push(at - given);
                }
                Turn::Failed(..) => seen.function_errors += 1,
                Turn::Idle(at) => {
                    self.idle.push_back(number);
                    if let Some(answered) = self.answered[number] {
                        seen.until_next.push(at - answered);
                    }
                    if time_left == TIME_LEFT {
                        self.longest = self.longest.max(at - given);
                    }
                    // Lambda would have ended the invocation: a function error, although the client got its reply.
                    seen.function_errors += usize::from(at - given >= time_left);
                }
            }
        }
        Ok(())
    }
}

impl Seen {
    fn sorted(mut self) -> Self {
        for times in [&mut self.hits, &mut self.others, &mut self.until_next] {
            times.sort_unstable();
        }
        self
    }

    fn answers(&self) -> usize {
        self.hits.len() + self.others.len()
    }

    fn p50(&self) -> Duration {
        quantile(&self.hits, 0.5)
    }

    fn slowest(&self) -> Duration {
        quantile(&self.hits, 1.0).max(quantile(&self.others, 1.0))
    }

    /// The p99 of all replies.
    fn p99(&self) -> Duration {
        let mut all = [&self.hits[..], &self.others].concat();
        all.sort_unstable();
        quantile(&all, 0.99)
    }

    #[expect(clippy::cast_precision_loss)]
    fn loads_per_ttl(&self) -> f64 {
        self.lookups.len() as f64 / self.lasted.div_duration_f64(TTL)
    }

    fn json(&self) -> Value {
        json!({
            "hits": self.hits.len(),
            "other_answers": self.others.len(),
            "wrong": self.wrong,
            "function_errors": self.function_errors,
            "delayed": self.delayed,
            "hit_p50_s": self.p50().as_secs_f64(),
            "p99_s": self.p99().as_secs_f64(),
            "slowest_s": self.slowest().as_secs_f64(),
            "until_next_p50_s": quantile(&self.until_next, 0.5).as_secs_f64(),
            "until_next_slowest_s": quantile(&self.until_next, 1.0).as_secs_f64(),
            "loads": self.lookups.len(),
        })
    }
}

impl Outage {
    fn new(seen: Seen) -> Self {
        let (begins, lasts) = OUTAGE;
        let attempts = seen.lookups.iter().copied();
        let attempts: Vec<_> =
            attempts.filter(|at| (begins..begins + lasts).contains(at)).collect();
        let gaps = attempts.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        Self { attempts: attempts.len(), shortest_gap: gaps.min().unwrap_or_default(), seen }
    }
}

impl Refreshes {
    pub(crate) fn goals(&self) -> Vec<[String; 4]> {
        let mut goals = Vec::new();
        let mut goal = |figure: String, goal: String, found: String, is_met: bool| {
            goals.push([figure, goal, found, if is_met { "yes" } else { "no" }.to_owned()]);
        };
        for Expiry { case, refresh, seen } in &self.expiries {
            let is_after_reply = *refresh == AFTER_REPLY;
            if *refresh == NOTHING_EXPIRES {
                continue;
            }
            if case.environments == CASES[2].environments {
                let most = if is_after_reply { 1.05 } else { 1.2 };
                let found = seen.loads_per_ttl();
                goal(
                    format!("loads per TTL, {} environments, {refresh}", case.environments),
                    format!("≤ {most:.2}"),
                    format!("{found:.2}"),
                    found <= most,
                );
            } else if is_after_reply {
                let most = (seen.p50() + Duration::from_millis(5)).min(Duration::from_millis(10));
                goal(
                    format!("slowest answer while entries expire, {}", case.name()),
                    format!("≤ {}", millis(most.as_secs_f64())),
                    millis(seen.slowest().as_secs_f64()),
                    seen.slowest() <= most,
                );
            }
        }
        let Outage { seen, attempts, shortest_gap } = &self.outage;
        goal(
            "answers that show an outage of the store".to_owned(),
            "0".to_owned(),
            (seen.others.len() + seen.wrong).to_string(),
            seen.others.len() + seen.wrong == 0,
        );
        goal(
            "time between two attempts in it".to_owned(),
            "≥ 1000 ms".to_owned(),
            millis(shortest_gap.as_secs_f64()),
            *attempts > 1 && *shortest_gap >= Duration::from_secs(1),
        );
        let errors = self.cut_off.seen.function_errors;
        goal(
            format!("function errors of {CUT_OFF} refreshes that have no time"),
            "0".to_owned(),
            errors.to_string(),
            errors == 0,
        );
        goals
    }

    pub(crate) fn tables(&self) -> [Table; 2] {
        let mut expiries = Table::new(
            "While entries expire",
            &[
                "requests",
                "CACHE_REFRESH",
                "answers",
                "not a hit",
                "hit p50",
                "p99",
                "slowest",
                "until the next event, p50",
                "slowest",
                "loads per TTL",
            ],
        );
        for Expiry { case, refresh, seen } in &self.expiries {
            expiries.row([
                case.name(),
                (*refresh).to_owned(),
                seen.answers().to_string(),
                seen.others.len().to_string(),
                time(seen.p50().as_secs_f64()),
                time(seen.p99().as_secs_f64()),
                millis(seen.slowest().as_secs_f64()),
                time(quantile(&seen.until_next, 0.5).as_secs_f64()),
                millis(quantile(&seen.until_next, 1.0).as_secs_f64()),
                format!("{:.2}", seen.loads_per_ttl()),
            ]);
        }
        expiries.note(
            "A load takes 300 ms, the TTL is 2 s, the window 60 s. Answers after the first miss, over 60 s.",
        );
        let mut failures = Table::new(
            "When a refresh fails",
            &["what happens", "answers", "not a hit", "slowest", "function errors", "attempts"],
        );
        let row = |what: &str, seen: &Seen, attempts: String| {
            [
                what.to_owned(),
                seen.answers().to_string(),
                seen.others.len().to_string(),
                millis(seen.slowest().as_secs_f64()),
                seen.function_errors.to_string(),
                attempts,
            ]
        };
        let Outage { seen, attempts, shortest_gap } = &self.outage;
        let gap = millis(shortest_gap.as_secs_f64());
        failures.row(row(
            "the store fails for 20 s",
            seen,
            format!("{attempts}, at least {gap} apart"),
        ));
        let CutOff { seen, longest, loads } = &self.cut_off;
        let longest = millis(longest.as_secs_f64());
        failures.row(row(
            "the load takes 2 s, the invocation has 1 s",
            seen,
            format!("{loads}, over after {longest} at the latest"),
        ));
        [expiries, failures]
    }

    pub(crate) fn json(&self) -> Value {
        let of = |it: &Expiry| {
            let mut figures = it.seen.json();
            figures["environments"] = it.case.environments.into();
            figures["requests_per_s"] = it.case.per_second.into();
            figures["refresh"] = it.refresh.into();
            figures["loads_per_ttl"] = it.seen.loads_per_ttl().into();
            figures
        };
        let mut outage = self.outage.seen.json();
        outage["attempts"] = self.outage.attempts.into();
        outage["shortest_gap_s"] = self.outage.shortest_gap.as_secs_f64().into();
        let mut cut_off = self.cut_off.seen.json();
        cut_off["longest_s"] = self.cut_off.longest.as_secs_f64().into();
        cut_off["loads"] = self.cut_off.loads.into();
        let expiries: Value = self.expiries.iter().map(of).collect();
        json!({ "expiries": expiries, "outage": outage, "cut_off": cut_off })
    }
}

impl Case {
    fn name(&self) -> String {
        match self.environments {
            1 => format!("{} a second to one environment", self.per_second),
            count => format!("{} a second over {count} environments", self.per_second),
        }
    }
}
