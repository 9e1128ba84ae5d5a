//! Pings whose way is traced (`--otlp`): each says to which trace it belongs.

use kameo::{
    message::{Context, Message},
    remote_message,
    reply::DelegatedReply,
};

use super::PingActor;
use crate::{
    protocol::{Echoed, Traced},
    traces::PingSpan,
};

#[remote_message("kameo-ping/traced/1")]
impl Message<Traced> for PingActor {
    type Reply = DelegatedReply<Echoed>;

    async fn handle(&mut self, traced: Traced, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let Traced { sequence, context: trace, payload } = traced;
        let span = PingSpan::of_server(sequence, &trace);
        let _timer = self.count.timer();
        let total_pings = self.count.add(1);
        self.answer(context, Echoed { sequence, total_pings, payload }, span).await
    }
}
