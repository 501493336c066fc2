//! Load for StreamJob's benchmarks: files, HTTP requests, and a receiver of webhooks.

mod clock;
mod file;
mod http;
mod null_server;
mod poll;
mod receive;
mod rows;
mod server;
mod summary;
mod units;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "streamjob-bench",
    version,
    about = "Generates load for StreamJob and receives its alerts. Each subcommand is one process with one thread; \
             the last line of its stdout is a JSON object."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    GenerateFile(file::Options),
    Http(http::Options),
    Receive(receive::Options),
    NullServer(null_server::Options),
}

fn main() {
    let outcome = match Arguments::parse().command {
        Command::GenerateFile(options) => file::run(&options),
        Command::Http(options) => http::run(&options),
        Command::Receive(options) => receive::run(&options),
        Command::NullServer(options) => null_server::run(&options),
    };
    match outcome {
        Ok(summary) => println!("{summary}"),
        Err(message) => {
            eprintln!("streamjob-bench: {message}");
            std::process::exit(1);
        }
    }
}
