//! Lambda as a function sees it: starts execution environments and serves the Runtime API to them.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>
//!
//! It uses blocking sockets on one thread, so that it measures hardly anything besides the function.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{Timespec, epoll};

use crate::Result;

/// How long to wait for anything, unless the caller says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How to start an environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Its environment variables, besides Lambda's own.
    pub(crate) variables: Vec<(String, String)>,
}

/// The environments, and the sockets on which they request events.
pub(crate) struct Lambda {
    epoll: OwnedFd,
    environments: Vec<Environment>,
}

struct Environment {
    process: Child,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    /// The connection on which the environment waits for an event.
    idle: Option<usize>,
    started: Instant,
    output: PipeReader,
    printed: Vec<u8>,
    invocations: u64,
    /// The buffer for reads.
    chunk: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What an environment did.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It requested an event.
    Idle(Instant),
    /// It replied to an event.
    Answered(Instant, Vec<u8>),
    /// It reported an error.
    Failed(Instant, String),
}

impl Program {
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The same program, run by another one, such as valgrind.
    pub(crate) fn under(&self, runner: &[&str]) -> Self {
        let runner = runner.iter().map(ToString::to_string);
        let command = runner.chain(self.command.iter().cloned()).collect();
        Self { command, variables: self.variables.clone() }
    }
}

impl Lambda {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, environments: Vec::new() })
    }

    /// Starts an environment without waiting for it, and returns its number.
    pub(crate) fn start(&mut self, program: &Program) -> Result<usize> {
        let number = self.environments.len();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        epoll::add(&self.epoll, &listener, data(number, 0), epoll::EventFlags::IN)?;
        let (output, input) = io::pipe()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        epoll::add(&self.epoll, &output, data(number, OUTPUT), epoll::EventFlags::IN)?;
        let (name, arguments) = program.command.split_first().ok_or("no program")?;
        let started = Instant::now();
        let process = Command::new(name)
            .args(arguments)
            .env_clear()
            .envs([
                ("AWS_LAMBDA_FUNCTION_NAME", "users"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", "users"),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "users"),
                ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
                ("AWS_REGION", "eu-west-1"),
            ])
            .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr()?.to_string())
            .envs(program.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        self.environments.push(Environment {
            process,
            listener,
            connections: Vec::new(),
            idle: None,
            started,
            output,
            printed: Vec::new(),
            invocations: 0,
            chunk: vec![0; 1 << 16],
        });
        Ok(number)
    }

    /// So many environments of one program, each of which asks for its first event.
    pub(crate) fn idle(program: &Program, environments: usize) -> Result<Self> {
        let mut lambda = Self::new()?;
        for _ in 0..environments {
            lambda.start(program)?;
        }
        let mut idle = 0;
        while idle < environments {
            let turns = lambda.turns(PATIENCE)?;
            if turns.is_empty() {
                return Err(format!("an environment does not start: {}", lambda.output(0)).into());
            }
            idle += turns.len();
        }
        Ok(lambda)
    }

    /// Waits until an environment does something, and returns what the environments did; nothing after `patience`.
    pub(crate) fn turns(&mut self, patience: Duration) -> Result<Vec<(usize, Turn)>> {
        let mut turns = Vec::new();
        let deadline = Instant::now() + patience;
        while turns.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left)?;
            let mut ready = Vec::with_capacity(64);
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&left))?;
            if ready.is_empty() {
                return Ok(turns);
            }
            for event in ready {
                let event = event.data.u64();
                let (number, place) = ((event >> 16) as usize, (event & 0xffff) as usize);
                let environment = &mut self.environments[number];
                if place == OUTPUT {
                    if environment.has_ended_output()? {
                        epoll::delete(&self.epoll, &environment.output)?;
                    }
                    continue;
                }
                if place > 0 {
                    turns.extend(environment.receive(place - 1)?.map(|turn| (number, turn)));
                    continue;
                }
                let (stream, _) = environment.listener.accept()?;
                stream.set_nodelay(true)?;
                environment.connections.push(None);
                let place = environment.connections.len();
                epoll::add(
                    &self.epoll,
                    stream.as_fd(),
                    data(number, place),
                    epoll::EventFlags::IN,
                )?;
                environment.connections[place - 1] =
                    Some(Connection { stream, received: Vec::new() });
            }
        }
        Ok(turns)
    }

    /// Gives an event to an idle environment.
    pub(crate) fn give(&mut self, number: usize, event: &[u8]) -> Result<Instant> {
        self.give_within(number, event, PATIENCE)
    }

    /// The same, with this much time until Lambda would end the invocation.
    pub(crate) fn give_within(
        &mut self,
        number: usize,
        event: &[u8],
        time_left: Duration,
    ) -> Result<Instant> {
        let environment = &mut self.environments[number];
        environment.invocations += 1;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH)? + time_left;
        let mut message = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
             lambda-runtime-aws-request-id: {:08x}-0000-4000-8000-{number:012x}\r\n\
             lambda-runtime-deadline-ms: {}\r\n\
             lambda-runtime-invoked-function-arn: arn:aws:lambda:eu-west-1:1:function:users\r\n\
             lambda-runtime-trace-id: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1\r\n\
             content-length: {}\r\n\r\n",
            environment.invocations,
            deadline.as_millis(),
            event.len(),
        )
        .into_bytes();
        message.extend_from_slice(event);
        let place = environment.idle.take().ok_or("the environment asks for no event")?;
        let connection = environment.connections[place].as_mut().ok_or("closed")?;
        let given = Instant::now();
        connection.stream.write_all(&message)?;
        Ok(given)
    }

    /// The process id of an environment.
    pub(crate) fn pid(&self, number: usize) -> u32 {
        self.environments[number].process.id()
    }

    pub(crate) fn started(&self, number: usize) -> Instant {
        self.environments[number].started
    }

    /// The output of an environment so far.
    pub(crate) fn output(&mut self, number: usize) -> String {
        let environment = &mut self.environments[number];
        // A read error only loses the rest of the output.
        let _ = environment.has_ended_output();
        String::from_utf8_lossy(&environment.printed).into_owned()
    }

    /// Closes the Runtime API to an environment, waits until it ends, and returns its output.
    pub(crate) fn hang_up(&mut self, number: usize) -> Result<String> {
        let environment = &mut self.environments[number];
        for connection in environment.connections.drain(..).flatten() {
            epoll::delete(&self.epoll, &connection.stream)?;
        }
        epoll::delete(&self.epoll, &environment.listener)?;
        // Dropping the old listener makes new connections fail.
        environment.listener = TcpListener::bind("127.0.0.1:0")?;
        let deadline = Instant::now() + PATIENCE;
        while self.environments[number].process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err("it does not end without the Runtime API".into());
            }
            std::thread::sleep(Duration::from_millis(5));
            self.output(number);
        }
        Ok(self.output(number))
    }
}

impl Environment {
    /// Reads what the environment has printed, and returns whether it has closed its output.
    fn has_ended_output(&mut self) -> Result<bool> {
        match self.output.read_to_end(&mut self.printed) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads from a connection.
    fn receive(&mut self, place: usize) -> Result<Option<Turn>> {
        let Some(connection) = &mut self.connections[place] else { return Ok(None) };
        let read = connection.stream.read(&mut self.chunk).or_else(|error| {
            // The function was killed, or closed the connection with unread data.
            if error.kind() == io::ErrorKind::ConnectionReset { Ok(0) } else { Err(error) }
        })?;
        connection.received.extend_from_slice(&self.chunk[..read]);
        if read == 0 {
            self.connections[place] = None;
            self.idle = self.idle.filter(|&idle| idle != place);
            return Ok(None);
        }
        let Some((target, body)) = connection.message()? else { return Ok(None) };
        let now = Instant::now();
        if target.ends_with("/next") {
            self.idle = Some(place);
            return Ok(Some(Turn::Idle(now)));
        }
        connection.stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
        Ok(Some(if target.ends_with("/response") {
            Turn::Answered(now, body)
        } else {
            Turn::Failed(now, String::from_utf8_lossy(&body).into_owned())
        }))
    }
}

impl Connection {
    /// The target and the body of a request, once it has arrived completely.
    fn message(&mut self) -> Result<Option<(String, Vec<u8>)>> {
        let Some(end) = find(&self.received, b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&self.received[..end])?;
        let target = head.split(' ').nth(1).ok_or("no request line")?.to_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then_some(value.trim())
            })
        };
        let mut from = end + 4;
        let mut body = Vec::new();
        if header("transfer-encoding").is_some() {
            loop {
                let rest = &self.received[from..];
                let Some(line) = find(rest, b"\r\n") else { return Ok(None) };
                let length = usize::from_str_radix(std::str::from_utf8(&rest[..line])?, 16)?;
                let chunk = line + 2;
                if rest.len() < chunk + length + 2 {
                    return Ok(None);
                }
                body.extend_from_slice(&rest[chunk..chunk + length]);
                from += chunk + length + 2;
                if length == 0 {
                    break;
                }
            }
        } else {
            let length = header("content-length").map_or(Ok(0), str::parse)?;
            if self.received.len() < from + length {
                return Ok(None);
            }
            body.extend_from_slice(&self.received[from..from + length]);
            from += length;
        }
        self.received.drain(..from);
        Ok(Some((target, body)))
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        for environment in &mut self.environments {
            let _ = environment.process.kill();
        }
        for environment in &mut self.environments {
            let _ = environment.process.wait();
        }
    }
}

/// Used instead of a connection's number for the output of an environment: a pipe with a reader, as on Lambda.
const OUTPUT: usize = 0xffff;

fn data(number: usize, place: usize) -> epoll::EventData {
    epoll::EventData::new_u64((number as u64) << 16 | place as u64)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A single environment.
pub(crate) struct One {
    lambda: Lambda,
    /// From the start of the process until it requested its first event.
    pub(crate) init: Duration,
}

/// How an invocation ended.
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    /// The reply, or the error. `None`: neither arrived in time.
    pub(crate) reply: Option<std::result::Result<Vec<u8>, String>>,
}

impl One {
    /// Starts an environment, and waits until it requests an event.
    pub(crate) fn start(program: &Program) -> Result<Self> {
        let (one, error) = Self::try_start(program, PATIENCE)?;
        error.map_or(Ok(one), |error| Err(error.into()))
    }

    /// The same, but returns an error message beside the environment if it does not get that far.
    pub(crate) fn try_start(
        program: &Program,
        patience: Duration,
    ) -> Result<(Self, Option<String>)> {
        let mut lambda = Lambda::new()?;
        lambda.start(program)?;
        let started = lambda.started(0);
        let mut error = None;
        let init = loop {
            let left = patience.saturating_sub(started.elapsed());
            // A process that exits causes no turn, so look for it now and then.
            let turns = lambda.turns(left.min(Duration::from_millis(200)))?;
            match turns.into_iter().next() {
                Some((_, Turn::Idle(at))) => break at - started,
                Some((_, turn)) => {
                    error = Some(format!("{turn:?}"));
                    break started.elapsed();
                }
                None if lambda.environments[0].process.try_wait()?.is_some() => {
                    error = Some("it has ended".to_owned());
                    break started.elapsed();
                }
                None if left.is_zero() => {
                    error = Some(format!("not ready after {patience:?}"));
                    break started.elapsed();
                }
                None => {}
            }
        };
        let error =
            error.map(|error| format!("{:?}: {error}\n{}", program.command, lambda.output(0)));
        Ok((Self { lambda, init }, error))
    }

    /// Invokes it, and waits until it requests the next event.
    pub(crate) fn invoke(&mut self, event: &[u8]) -> Result<(Duration, Vec<u8>)> {
        let outcome = self.try_invoke(event, PATIENCE)?;
        match outcome.reply {
            Some(Ok(reply)) => Ok((outcome.took, reply)),
            Some(Err(error)) => Err(format!("{error}\n{}", self.output()).into()),
            None => Err(format!("no answer\n{}", self.output()).into()),
        }
    }

    /// The same, but returns errors and timeouts too. After a timeout the environment is unusable.
    pub(crate) fn try_invoke(&mut self, event: &[u8], patience: Duration) -> Result<Outcome> {
        let given = self.lambda.give(0, event)?;
        let mut outcome = None;
        loop {
            let mut left = patience.saturating_sub(given.elapsed());
            if outcome.is_some() {
                left = PATIENCE;
            }
            let turns = self.lambda.turns(left)?;
            if turns.is_empty() {
                return Ok(outcome.unwrap_or(Outcome { took: given.elapsed(), reply: None }));
            }
            for (_, turn) in turns {
                match turn {
                    Turn::Answered(at, reply) => {
                        outcome = Some(Outcome { took: at - given, reply: Some(Ok(reply)) });
                    }
                    Turn::Failed(at, error) => {
                        outcome = Some(Outcome { took: at - given, reply: Some(Err(error)) });
                    }
                    Turn::Idle(_) => {
                        if let Some(outcome) = outcome.take() {
                            return Ok(outcome);
                        }
                    }
                }
            }
        }
    }

    /// Whether it waits for an event.
    pub(crate) fn is_idle(&self) -> bool {
        self.lambda.environments[0].idle.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.lambda.pid(0)
    }

    pub(crate) fn output(&mut self) -> String {
        self.lambda.output(0)
    }

    /// Ends it by closing the Runtime API, and returns its output.
    pub(crate) fn hang_up(mut self) -> Result<String> {
        self.lambda.hang_up(0)
    }

    /// The processor time that all its threads have used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += text.split(' ').next().ok_or("no schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The peak of its resident memory, in kB.
    pub(crate) fn peak_memory_kb(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
    }
}
