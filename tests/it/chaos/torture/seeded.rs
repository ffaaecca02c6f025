//! Servers that are broken on purpose, in functions of their own database: the torture must tell
//! them from good ones, or its silence about good ones means nothing.

use std::time::Duration;

use super::Torture;
use super::plan::Plan;
use crate::chaos::history::Violation;

/// Long enough for every dice to fall.
const LENGTH: Duration = Duration::from_secs(12);

/// Every answer is given before its commit is on disk: each hot function begins with this one.
const ACKNOWLEDGES_BEFORE_THE_FLUSH: &str = "
    create or replace function towpath.assert_read_committed() returns void
        language plpgsql volatile
        as $$
    begin
        perform set_config('synchronous_commit', 'off', true);
    end
    $$";

/// A delete takes the lease that lies where the receipt says, whoever holds it now and whatever
/// else it covers.
const DELETES_WITHOUT_A_LOOK_AT_THE_TOKEN: &str = "
    create or replace function towpath.ack_2(
        p_sub int,
        p_lanes bigint[],
        p_los bigint[],
        p_toks int[],
        p_masks bigint[],
        p_wholes boolean[]
    ) returns bigint[]
        language plpgsql volatile
        as $$
    begin
        for v_ix in 1 .. cardinality(p_lanes) loop
            delete from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix];
        end loop;
        return p_masks;
    end
    $$";

/// The text of a function with one piece replaced by another.
fn edited(function: &str, piece: &str, other: &str) -> String {
    format!(
        "do $do$
        declare
            v_text constant text := pg_get_functiondef('towpath.{function}'::regproc);
            v_edited constant text := replace(v_text, $piece${piece}$piece$, $other${other}$other$);
        begin
            if v_edited = v_text then
                raise exception 'there is no such piece in {function}';
            end if;
            execute v_edited;
        end
        $do$;"
    )
}

/// A dead letter is copied, and deleted where it died in a second step, before which half of those
/// who do it fail.
fn moves_by_copy_and_delete() -> String {
    const KEY: &str = "e.lane_id = p_src_lanes[v_ix] and e.sub_id = p_sub
        and e.lo = p_src_los[v_ix] and e.tok = p_src_toks[v_ix]";
    let function = "append_careful_1";
    let second_step = format!(
        "if random() < 0.5 then delete from towpath.lease e where {KEY}; end if;
        if v_epoch is null"
    );
    // First the copy, whose lease ends at once.
    edited(
        function,
        "delete from towpath.lease e",
        "update towpath.lease e set vt = towpath.clock()",
    ) + &edited(function, "if v_epoch is null", &second_step)
}

/// That torture finds what is wrong with a server that is broken like that.
async fn finds(fault: &str, only_the_database: bool, is_it: fn(&Violation) -> bool) {
    let plan = Plan {
        only_the_database,
        ..Plan::short(LENGTH)
    };
    let mut torture = Torture::prepare(plan).await;
    torture.cluster.database().run(fault).await;
    let violations = torture.verdict().await;
    let story = torture.history.tell(&violations);
    assert!(violations.iter().any(is_it), "{story}");
}

#[tokio::test]
async fn a_server_that_acknowledges_before_the_flush_is_found() {
    let is_loss = |found: &Violation| matches!(found, Violation::Lost(_));
    finds(ACKNOWLEDGES_BEFORE_THE_FLUSH, true, is_loss).await;
}

#[tokio::test]
async fn a_server_that_deletes_without_a_look_at_the_token_is_found() {
    let is_loss = |found: &Violation| matches!(found, Violation::Lost(_));
    finds(DELETES_WITHOUT_A_LOOK_AT_THE_TOKEN, false, is_loss).await;
}

#[tokio::test]
async fn a_server_that_moves_dead_letters_by_copy_and_delete_is_found() {
    let is_second_copy = |found: &Violation| {
        matches!(
            found,
            Violation::HeldTwice(_) | Violation::Miscounted(_) | Violation::Undeleted(_)
        )
    };
    finds(&moves_by_copy_and_delete(), false, is_second_copy).await;
}

#[tokio::test]
async fn a_server_that_extends_what_has_ended_is_found() {
    let fault = edited("extend_3", "and e.vt > v_now", "");
    let is_unfenced = |found: &Violation| matches!(found, Violation::Unfenced(_));
    finds(&fault, false, is_unfenced).await;
}
