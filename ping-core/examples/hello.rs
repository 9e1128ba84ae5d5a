//! Distributed Kameo: an actor in one process, an ask from another.
//!
//! ```sh
//! cargo run -p ping-core --example hello            # hosts the actor, and prints its address
//! cargo run -p ping-core --example hello ADDRESS    # asks it
//! ```

use std::error::Error;

use kameo::{
    actor::RemoteActorRef,
    prelude::{Actor, Context, Message, RemoteActor, Spawn, remote_message},
};
use libp2p::identity::Keypair;
use ping_core::{Event, Node, Options, hardening::Limits};
use serde::{Deserialize, Serialize};

/// The actor. The client knows it by this type, and looks it up by name.
#[derive(Actor, RemoteActor)]
struct Greeter {
    greeted: u64,
}

/// What crosses the wire.
#[derive(Deserialize, Serialize)]
struct Hello(String);

#[remote_message]
impl Message<Hello> for Greeter {
    type Reply = String;

    async fn handle(&mut self, Hello(name): Hello, _: &mut Context<Self, String>) -> String {
        self.greeted += 1;
        format!("Hello {name}, you are number {}", self.greeted)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        None => host().await,
        Some(address) => ask(&address).await,
    }
}

async fn host() -> Result<(), Box<dyn Error>> {
    let options = Options { listens: true, limits: Limits::listener(100), ..Options::default() };
    let (node, mut events) = Node::start(&Keypair::generate_ed25519(), options)?;
    node.listen("/ip4/127.0.0.1/tcp/0".parse()?).await?;
    let greeter = Greeter::spawn(Greeter { greeted: 0 });
    greeter.register("greeter").await?;
    if let Some(Event::Listening(address)) = events.recv().await {
        println!("{address}");
    }
    Ok(tokio::signal::ctrl_c().await?)
}

async fn ask(address: &str) -> Result<(), Box<dyn Error>> {
    let (node, _events) = Node::start(&Keypair::generate_ed25519(), Options::default())?;
    let _connection = node.dial(address.parse()?, None).await?;
    let greeter = RemoteActorRef::<Greeter>::lookup("greeter").await?.ok_or("nobody greets there")?;
    println!("{}", greeter.ask(&Hello("world".into())).await?);
    Ok(())
}
