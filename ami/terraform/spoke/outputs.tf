output "role_arn" {
  description = "The spokes' role."
  value       = aws_iam_role.this.arn
}

output "security_group_id" {
  description = "Their security group, for what else shall reach them (forwards)."
  value       = aws_security_group.this.id
}

output "groups" {
  description = "Their Auto Scaling groups, in the order of the zones."
  value       = aws_autoscaling_group.this[*].name
}

output "egress_addresses" {
  description = "The addresses that the internet sees; empty without Elastic IPs."
  value       = aws_eip.this[*].public_ip
}
